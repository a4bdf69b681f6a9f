"""``gate.lua`` in LuaJIT: what is ambiguous about whom a request is for."""

from __future__ import annotations

import pytest
from lupa import luajit21

from cube.egress.envoy.listener import script


def reason(
    authority: str, scheme: str = "https", *, sni: str = "a.test", dialled: str = "", method: str = "GET"
) -> str:
    port = {"https": "443", "http": "80"}[scheme]
    lua = luajit21.LuaRuntime(unpack_returned_tuples=True)
    lua.execute(script("gate.lua", scheme=scheme, port=port, upgrading=""))
    fields = {"authority": authority, "sni": sni, "dialled": dialled or f"203.0.113.1:{port}", "method": method}
    found = lua.globals().refusal(lua.table_from(fields))
    return str(found.reason) if found else ""


@pytest.mark.parametrize("authority", ["a.test", "A.TEST", "a.test:443", "a.test."])
def test_what_agrees_passes(authority: str) -> None:
    assert reason(authority) == ""


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("b.test", "g4_host_sni_mismatch"),
        ("x.a.test", "g4_host_sni_mismatch"),
        ("a.test:80", "port_mismatch"),
        ("a.test:", "host_invalid"),
        ("", "host_invalid"),
        ("a.test@b.test", "host_invalid"),
        ("a.test/b", "host_invalid"),
        ("a b", "host_invalid"),
        ("[::1]", "host_invalid"),
        ("[::1]:443", "host_invalid"),
        ("a.test:443:443", "host_invalid"),
        ("a.test\0", "host_invalid"),
        ("b\u00fccher.test", "host_invalid"),
    ],
)
def test_what_contradicts_itself_is_refused(authority: str, expected: str) -> None:
    assert reason(authority) == expected


@pytest.mark.parametrize("host", ["203.0.113.1", "0.0.0.0", "255.255.255.255"])
def test_addresses_in_their_usual_form_pass(host: str) -> None:
    assert reason(host, "http") == ""


@pytest.mark.parametrize(
    "host", ["203.0.113.01", "3405803786", "0xcb007101", "203.0.28929", "1.2.3.256", "a.0x1", "1.2.3.4.5"]
)
def test_other_spellings_of_addresses_are_refused(host: str) -> None:
    assert reason(host, "http") == "host_invalid"


def test_the_port_dialled_is_the_ports_measure() -> None:
    assert reason("a.test:8443", dialled="203.0.113.1:8443") == ""
    assert reason("a.test", dialled="203.0.113.1:8443") == "port_mismatch"
    assert reason("a.test", "http", dialled="203.0.113.1:443") == "port_mismatch"


def test_a_handshake_without_a_name_fits_no_host() -> None:
    assert reason("a.test", sni="") == "g4_host_sni_mismatch"


def test_connect_is_refused() -> None:
    assert reason("a.test:443", method="CONNECT") == "connect_refused"
