"""``routing.lua`` in LuaJIT, the interpreter that Envoy has: who gets which request."""

from __future__ import annotations

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


decide = load("localhost")
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
