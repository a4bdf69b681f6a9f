"""What rules must decide, as a table: held by the reference in the model and by the gateway alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LLM = {
    "name": "llm",
    "match": {"host": "api.a.test", "sni": "api.a.test", "scheme": "https", "method": ["POST"], "path": "/v1/*"},
    "action": {"allow": True, "inject": [{"header": "Authorization", "secret": "k-123", "format": "Bearer ${SECRET}"}]},
}
BLOCK = {"name": "block", "match": {"host": "*.b.test", "path": "/admin*"}, "action": {"allow": False, "audit": "full"}}
REST = {"name": "rest", "match": {"host": "*.b.test"}, "action": {"allow": True}}
EXAMPLE = [LLM, BLOCK, REST]


@dataclass(frozen=True)
class Case:
    """A request, and the name of the rule that must decide it (``None``: no rule does)."""

    title: str
    rules: list[dict[str, Any]]
    decides: str | None
    host: str = "api.a.test"
    scheme: str = "https"
    method: str = "GET"
    path: str = "/"
    #: The name in the handshake; the host where it is ``""``, nothing on plain HTTP.
    sni: str = ""
    #: What the Host header says, where that is not the host.
    host_header: str = field(default="")


def rule(name: str = "r", allow: bool = True, **match: Any) -> dict[str, Any]:
    """A rule in its wire form."""
    return {"name": name, "match": match, "action": {"allow": allow}}


CASES = [
    Case("the example allows its POST", EXAMPLE, "llm", method="POST", path="/v1/chat"),
    Case("the example knows no GET", EXAMPLE, None, path="/v1/chat"),
    Case("the example asks for TLS", EXAMPLE, None, method="POST", path="/v1/chat", scheme="http"),
    Case("the example knows no other path", EXAMPLE, None, method="POST", path="/v2/chat"),
    Case("a prefix includes what is before its star", EXAMPLE, "llm", method="POST", path="/v1/"),
    Case("a prefix needs all of it", EXAMPLE, None, method="POST", path="/v1"),
    Case("blocked below a wildcard", EXAMPLE, "block", host="sub.b.test", path="/admin/x"),
    Case("blocked by prefix of a word", EXAMPLE, "block", host="sub.b.test", path="/administrators"),
    Case("the rest of the wildcard", EXAMPLE, "rest", host="sub.b.test", path="/"),
    Case("a wildcard goes any depth", EXAMPLE, "rest", host="x.y.z.b.test"),
    Case("a wildcard is not the apex", EXAMPLE, None, host="b.test"),
    Case("a wildcard ends at a label", EXAMPLE, None, host="evilb.test"),
    Case("a wildcard is no infix", EXAMPLE, None, host="sub.b.test.evil.test"),
    Case("an empty match is everything", [rule()], "r"),
    Case("an empty match is everything over HTTP", [rule()], "r", scheme="http"),
    Case("no rule, no request", [rule(host="z.test")], None),
    Case("first match wins: deny first", [rule("no", False), rule("yes")], "no"),
    Case("first match wins: allow first", [rule("yes"), rule("no", False)], "yes"),
    Case("a later rule decides what the first does not fit", [rule("p", path="/p"), rule("q", path="/q")], "q",
         path="/q"),
    Case("deny of one path before allow of the host", [rule("no", False, path="/x"), rule("yes")], "no", path="/x"),
    Case("host in other letters", [rule(host="API.a.Test")], "r"),
    Case("host header in other letters", [rule(host="api.a.test")], "r", host_header="API.A.test"),
    Case("host of the rule with a port", [rule(host="api.a.test:443")], "r"),
    Case("host of the rule with a final dot", [rule(host="api.a.test.")], "r"),
    Case("host header with the port", [rule(host="api.a.test")], "r", host_header="api.a.test:443"),
    Case("host header with the port over HTTP", [rule(host="api.a.test")], "r", host_header="api.a.test:80",
         scheme="http"),
    Case("wildcard and host header with the port", [rule(host="*.a.test")], "r", host_header="api.a.test:443"),
    Case("other host", [rule(host="www.a.test")], None),
    Case("host is not a prefix", [rule(host="api.a")], None),
    Case("host is no pattern", [rule(host="api-a.test")], None),
    Case("host over HTTP", [rule(host="api.a.test")], "r", scheme="http"),
    Case("sni", [rule(sni="api.a.test")], "r"),
    Case("sni in other letters", [rule(sni="api.A.TEST")], "r"),
    Case("sni by wildcard", [rule(sni="*.a.test")], "r"),
    Case("sni of another", [rule(sni="www.a.test")], None),
    Case("no sni on plain HTTP", [rule(sni="api.a.test")], None, scheme="http"),
    Case("no sni on plain HTTP, by wildcard", [rule(sni="*.a.test")], None, scheme="http"),
    Case("sni and host", [rule(sni="api.a.test", host="api.a.test")], "r"),
    Case("sni fits, host does not", [rule(sni="api.a.test", host="www.a.test")], None),
    Case("method", [rule(method=["GET"])], "r"),
    Case("method of a list", [rule(method=["PUT", "DELETE"])], "r", method="DELETE"),
    Case("method not in the list", [rule(method=["PUT", "DELETE"])], None),
    Case("method of the rule in small letters", [rule(method=["get"])], "r"),
    Case("method is the whole word", [rule(method=["GE"])], None),
    Case("method of an extension", [rule(method=["PROPFIND"])], "r", method="PROPFIND"),
    Case("scheme https", [rule(scheme="https")], "r"),
    Case("scheme https is not http", [rule(scheme="https")], None, scheme="http"),
    Case("scheme http", [rule(scheme="http")], "r", scheme="http"),
    Case("scheme http is not https", [rule(scheme="http")], None),
    Case("scheme in capitals", [rule(scheme="HTTPS")], "r"),
    Case("path exact", [rule(path="/a/b")], "r", path="/a/b"),
    Case("path exact is no prefix", [rule(path="/a/b")], None, path="/a/b/c"),
    Case("path exact with another end", [rule(path="/a/b")], None, path="/a/b/"),
    Case("path keeps its letters", [rule(path="/a/B")], None, path="/a/b"),
    Case("path without the query", [rule(path="/a")], "r", path="/a?b=/c"),
    Case("path in the query does not count", [rule(path="/b")], None, path="/a?/b"),
    Case("path prefix", [rule(path="/a/*")], "r", path="/a/b/c"),
    Case("path prefix of a word", [rule(path="/a*")], "r", path="/abc"),
    Case("path of a star alone", [rule(path="*")], "r", path="/x"),
    Case("path with a star in the middle is literal", [rule(path="/a*b")], None, path="/axb"),
    Case("path with a literal star", [rule(path="/a*b")], "r", path="/a*b"),
    Case("path with signs of regular expressions", [rule(path="/a.b+(c)")], None, path="/aXb+(c)"),
    Case("path with the very signs", [rule(path="/a.b+(c)")], "r", path="/a.b+(c)"),
    Case("all fields", [rule(sni="api.a.test", host="*.a.test", method=["GET"], path="/p*", scheme="https")], "r",
         path="/p"),
]  # fmt: skip
