"""``routing.lua`` in LuaJIT, the interpreter that Envoy has: who gets which request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import luajit21

from cube.proxy.listener import routing_script

Decision = dict[str, Any]


def load(domain: str) -> Callable[..., Decision]:
    lua = luajit21.LuaRuntime(unpack_returned_tuples=True)
    lua.execute(routing_script(domain, Path("/nowhere")))

    def decide(host: str, path: str = "/", method: str = "GET", **headers: str) -> Decision:
        request = {"authority": host, "path": path, "method": method, **headers}
        return dict(lua.globals().decide(lua.table_from(request)))

    return decide


def function(name: str) -> Callable[..., Any]:
    """A function of the script that needs no Envoy; dictionaries become tables."""
    lua = luajit21.LuaRuntime(unpack_returned_tuples=True)
    lua.execute(routing_script("localhost", Path("/nowhere")))

    def call(*arguments: Any) -> Any:
        given = (lua.table_from(argument) if isinstance(argument, dict) else argument for argument in arguments)
        return lua.globals()[name](*given)

    return call


decide = load("localhost")
closed = function("closed")
sha256 = function("sha256")
masked_host = function("masked_host")
decide_for_domain = load("Sbx.Example.org")
ENVD = {"kind": "envd", "service": "envd"}
API = {"kind": "api"}


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:3000", "LOCALHOST", "127.0.0.1:3000", "10.1.2.3", "[::1]:3000", "sandbox.any.where:1"],
)
def test_headers_count_on_hosts_that_name_no_sandbox(host: str) -> None:
    assert decide(host, id="abc", port="8080") == {"kind": "sandbox", "id": "abc", "port": 8080}
    assert decide(host, id="abc", port="49983") == {**ENVD, "id": "abc"}
    assert decide(host, id="abc", port="49999") == {"kind": "envd", "service": "interpreter", "id": "abc"}


def test_headers_count_on_the_configured_domain() -> None:
    assert decide_for_domain("sbx.example.org:443", id="abc", port="80")["kind"] == "sandbox"


@pytest.mark.parametrize("host", ["evil.example.org", "api.localhost", "localhost.evil.org", "127.0.0.1.evil.org", ""])
def test_headers_do_not_count_on_other_hosts(host: str) -> None:
    assert decide(host, id="abc", port="8080") == API


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8080-abc.localhost", {"kind": "sandbox", "id": "abc", "port": 8080}),
        ("8080-abc.localhost:3000", {"kind": "sandbox", "id": "abc", "port": 8080}),
        ("8080-abc.localhost.:3000", {"kind": "sandbox", "id": "abc", "port": 8080}),
        ("8080-ABC.LocalHost", {"kind": "sandbox", "id": "abc", "port": 8080}),
        ("8080-abc-6532622b.localhost", {"kind": "sandbox", "id": "abc", "port": 8080}),
        ("1-a.localhost", {"kind": "sandbox", "id": "a", "port": 1}),
        ("65535-a.localhost", {"kind": "sandbox", "id": "a", "port": 65535}),
        ("49983-abc.localhost", {**ENVD, "id": "abc"}),
        ("49999-abc.localhost", {"kind": "envd", "service": "interpreter", "id": "abc"}),
    ],
)
def test_host_names_the_sandbox(host: str, expected: Decision) -> None:
    assert decide(host) == expected


def test_host_wins_over_headers() -> None:
    assert decide("8080-abc.localhost", id="other", port="9090") == {"kind": "sandbox", "id": "abc", "port": 8080}


@pytest.mark.parametrize(
    "host", ["8080-abc.other", "8080-abc.x.localhost", "8080-abc", "api.localhost", "x-abc.localhost", ".localhost"]
)
def test_other_hosts_belong_to_the_api(host: str) -> None:
    assert decide(host) == API


@pytest.mark.parametrize(
    "port", ["0", "65536", "99999", "123456", "00080000", "80a", "-1", "+80", "8.0", "0x50", " 80", ""]
)
def test_bad_port_is_refused_with_words(port: str) -> None:
    decision = decide("localhost", id="abc", port=port)
    assert (decision["kind"], decision["status"]) == ("refused", 400)
    assert "1 to 65535" in decision["message"]


@pytest.mark.parametrize(
    "sandbox_id", ["", "A", "../api", "a/b", "a.b", ".abc", "a" * 41, "abc,abc", "-abc", "abc-", "abc\n", "ä", "a%2e"]
)
def test_bad_id_is_refused_with_words(sandbox_id: str) -> None:
    decision = decide("localhost", id=sandbox_id, port="8080")
    assert (decision["kind"], decision["status"]) == ("refused", 400)
    assert "sandbox id" in decision["message"]


@pytest.mark.parametrize("host", ["0-abc.localhost", "65536-abc.localhost", "80-.localhost", "80-a_b.localhost"])
def test_bad_host_is_refused(host: str) -> None:
    assert decide(host)["status"] == 400


@pytest.mark.parametrize(("given", "missing"), [("id", "E2b-Sandbox-Port"), ("port", "E2b-Sandbox-Id")])
def test_one_header_without_the_other_is_refused(given: str, missing: str) -> None:
    decision = decide("localhost", **{given: "80"})
    assert (decision["status"], decision["message"]) == (400, f"missing header {missing}")


INTERNAL = ["/init", "/freeze", "/unfreeze", "/fsfreeze", "/fsthaw", "/collapse"]


@pytest.mark.parametrize("path", INTERNAL)
@pytest.mark.parametrize(
    "spelling", ["{}", "{}/", "{}?x=1", "{}#x", "/{}", "/.{}", "/x/..{}", "{}/.", "{}/x/..", "{}//"]
)
def test_internal_paths_of_envd_are_hidden(path: str, spelling: str) -> None:
    decision = decide("49983-abc.localhost", spelling.format(path))
    assert (decision["kind"], decision["status"], decision["id"]) == ("refused", 404, "abc")


@pytest.mark.parametrize("path", ["/%69nit", "/%2e/init", "/%2finit", "/x%2F..%2Finit", "/%66reeze", "%2Finit"])
def test_internal_paths_are_hidden_when_escaped(path: str) -> None:
    assert decide("49983-abc.localhost", path)["status"] == 404


@pytest.mark.parametrize(
    "path", ["/", "/health", "/files?path=/init", "/initialise", "/x/init", "/.init", "/process.Process/Start"]
)
def test_other_paths_of_envd_are_open(path: str) -> None:
    assert decide("49983-abc.localhost", path)["kind"] == "envd"


def test_internal_names_mean_nothing_on_other_ports() -> None:
    assert decide("8080-abc.localhost", "/init")["kind"] == "sandbox"
    assert decide("49999-abc.localhost", "/init")["kind"] == "envd"
    assert decide("localhost", "/init") == API


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/files?signature=v1_x", "/files?path=a&signature=v1_x&username=u"])
def test_signed_file_requests_go_to_envd_without_an_id(method: str, path: str) -> None:
    assert decide("localhost:3000", path, method) == ENVD
    assert decide("any.host", path, method) == ENVD


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/files?signature=x"),
        ("GET", "/files?xsignature=x"),
        ("GET", "/files"),
        ("GET", "/v1/files?signature=x"),
    ],
)
def test_other_file_requests_go_to_the_api(method: str, path: str) -> None:
    assert decide("localhost", path, method) == API


def test_signed_file_request_with_half_of_the_headers_is_refused() -> None:
    assert decide("localhost", "/files?signature=x", id="abc")["status"] == 400


@given(
    host=st.text(max_size=80), id=st.none() | st.text(max_size=50), port=st.none() | st.text(max_size=8), path=st.text()
)
def test_whatever_comes_a_decision_is_well_formed(host: str, id: str | None, port: str | None, path: str) -> None:
    headers = {name: value for name, value in (("id", id), ("port", port)) if value is not None}
    decision = decide(host, path, **headers)
    assert decision["kind"] in {"api", "envd", "sandbox", "refused"}
    if decision["kind"] == "sandbox":
        assert re.fullmatch(r"[a-z0-9]{1,40}", decision["id"])
        assert 1 <= decision["port"] <= 65535
        assert decision["port"] not in (49983, 49999)


@given(domain=st.text())
def test_domain_is_data_not_code(domain: str) -> None:
    lua = luajit21.LuaRuntime(encoding=None)
    script = routing_script(domain, Path('/x"]]\n')).split("\n", 1)[0]
    assert lua.execute(script.encode() + b"\nreturn CONFIG.domain") == domain.lower().encode()


@given(st.text(max_size=200).map(lambda text: text.encode()) | st.binary(max_size=130))
def test_digest_is_sha256(data: bytes) -> None:
    lua = luajit21.LuaRuntime(encoding=None)
    lua.execute(routing_script("localhost", Path("/nowhere")).encode())
    assert lua.globals().sha256(data).decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("length", [0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 128, 1000])
def test_digest_at_the_edges_of_blocks(length: int) -> None:
    assert sha256("a" * length) == hashlib.sha256(b"a" * length).hexdigest()


SECURED = {"token": hashlib.sha256(b"right").hexdigest()}


def test_a_route_without_a_token_is_open() -> None:
    assert closed({"address": "10.0.0.1"}, "") is None
    assert closed({"address": "10.0.0.1"}, "anything") is None


def test_the_token_opens() -> None:
    assert closed(SECURED, "right") is None


@pytest.mark.parametrize("token", ["wrong", "righ", "rightt", "right,right", " right", "x" * 129, SECURED["token"]])
def test_any_other_token_does_not(token: str) -> None:
    assert "is invalid" in closed(SECURED, token)


def test_a_missing_token_is_told() -> None:
    assert closed(SECURED, "") == (
        "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing"
    )


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 64, "x"])
def test_a_record_that_is_damaged_is_closed(digest: str) -> None:
    assert closed({"token": digest}, "right") is not None


@pytest.mark.parametrize(
    ("mask", "host"), [("app.test", "app.test"), ("${PORT}.x:${PORT}", "80.x:80"), ("$PORT%1", "$PORT%1")]
)
def test_host_is_masked(mask: str, host: str) -> None:
    assert masked_host({"host": mask}, 80) == host


def test_host_is_left_alone() -> None:
    assert masked_host({}, 80) is None
