"""TLS on the public port, with certificates of our own and of the operator."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxy_door import Door, opened, services

from cube.model.errors import HostError
from cube.proxy import certificates, inbound
from support import slots

pytestmark = pytest.mark.root


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """An address of this machine that is not loopback; connections to it come from it."""
    address = f"192.0.2.{100 + slots.slot()}"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    yield address
    subprocess.run(["ip", "address", "delete", f"{address}/32", "dev", "lo"], check=True)


@asynccontextmanager
async def door_with(run_dir: Path, state_dir: Path, **more: Any) -> AsyncIterator[Door]:
    async with opened(run_dir, state_dir=state_dir, **more) as door, services(door.settings):
        yield door


def trusting(door: Door) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=door.settings.tls_dir / "ca.pem")


async def ask(door: Door, host: str, trust: ssl.SSLContext, *, http2: bool = False) -> httpx.Response:
    """GET by a name that resolves nowhere: the connection goes to the port, the name into handshake and request."""
    address = f"https://127.0.0.1:{door.settings.port}/x"
    async with httpx.AsyncClient(verify=trust, http2=http2, trust_env=False) as client:
        request = client.build_request("GET", address, headers={"host": f"{host}:{door.settings.port}"})
        request.extensions["sni_hostname"] = host
        return await client.send(request)


async def test_names_and_protocols(run_dir: Path, tmp_path: Path) -> None:
    async with door_with(run_dir, tmp_path, tls="also") as door:
        trust = trusting(door)
        for http2, version in ((False, "HTTP/1.1"), (True, "HTTP/2")):
            answer = await ask(door, "api.cube.localhost", trust, http2=http2)
            assert (answer.http_version, answer.json()["server"]) == (version, "api")
            assert ["x-forwarded-proto", "https"] in answer.json()["headers"]
            answer = await ask(door, "49983-box1.cube.localhost", trust, http2=http2)
            assert (answer.http_version, answer.json()["server"]) == (version, "envd")
        plain = await door.client.get("/x")
        assert plain.json()["server"] == "api"
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await ask(door, "api.elsewhere", trust)


async def test_old_protocols_are_refused(run_dir: Path, tmp_path: Path) -> None:
    async with door_with(run_dir, tmp_path, tls="also") as door:
        for version, works in (("-tls1_3", True), ("-tls1_2", True), ("-tls1_1", False), ("-tls1", False)):
            command = ["openssl", "s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-connect"]
            done = await asyncio.create_subprocess_exec(
                *command,
                f"127.0.0.1:{door.settings.port}",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            assert (await done.wait() == 0) is works, version


async def test_plain_http_from_this_machine_alone(run_dir: Path, tmp_path: Path, elsewhere: str) -> None:
    async with door_with(run_dir, tmp_path, tls="only", host="0.0.0.0") as door:
        assert (await door.client.get("/x")).json()["server"] == "api"
        async with httpx.AsyncClient(trust_env=False, verify=trusting(door)) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://{elsewhere}:{door.settings.port}/x")
            request = client.build_request("GET", f"https://{elsewhere}:{door.settings.port}/x")
            request.extensions["sni_hostname"] = "api.cube.localhost"
            assert (await client.send(request)).json()["server"] == "api"


async def test_the_operators_certificate_and_its_renewal(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "_RENEWAL_SECONDS", 0.1)
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        certificates.own(directory, "cube.localhost")
    files = {"tls_certificate": str(first / "server.pem"), "tls_key": str(first / "server-key.pem")}
    async with door_with(run_dir, tmp_path / "state", tls="also", **files) as door:
        trust = ssl.create_default_context(cafile=first / "ca.pem")
        assert (await ask(door, "api.cube.localhost", trust)).json()["server"] == "api"
        for name in ("server-key.pem", "server.pem"):
            (second / name).rename(first / name)
        renewed = ssl.create_default_context(cafile=second / "ca.pem")
        async with asyncio.timeout(20):
            while True:
                try:
                    assert (await ask(door, "api.cube.localhost", renewed)).json()["server"] == "api"
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        (first / "server.pem").write_text("nonsense")
        await asyncio.sleep(0.3)  # several looks at what cannot be used
        assert (await ask(door, "api.cube.localhost", renewed)).json()["server"] == "api"


async def test_a_certificate_that_is_none_stops_the_start(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nonsense")
    files = {"tls_certificate": str(tmp_path / "x.pem"), "tls_key": str(tmp_path / "x.pem")}
    with pytest.raises(HostError, match="cannot be used"):
        async with door_with(run_dir, tmp_path, tls="also", **files):
            pass
    assert not os.path.exists(run_dir / "proxy/xds.sock")  # noqa: ASYNC240  a look


async def test_the_key_is_not_shown(run_dir: Path, tmp_path: Path) -> None:
    async with door_with(run_dir, tmp_path, tls="also") as door:
        transport = httpx.AsyncHTTPTransport(uds=str(door.settings.run_dir / "proxy/admin/admin.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
            shown = (await admin.get("/config_dump")).text
    assert "BEGIN CERTIFICATE" in shown or "certificate_chain" in shown
    assert "PRIVATE KEY" not in shown
