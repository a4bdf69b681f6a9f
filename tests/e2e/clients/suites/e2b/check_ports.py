"""Addresses of a sandbox: ports, signed links, tokens."""

from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from typing import Any

from harness import Client, eventually, shows

ECHO = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.headers).encode())
http.server.HTTPServer(("", 8000), Echo).serve_forever()
"""


async def _echo(sandbox: Any) -> None:
    await sandbox.files.write("echo.py", ECHO)
    await sandbox.commands.run("exec python3 echo.py > /dev/null 2>&1", background=True)


@shows("Sandbox.download_url", "Sandbox.upload_url", "Sandbox.envd_direct_url")
async def check_signed_links(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("f", "signed")
        link = await sandbox.download_url("f")
        assert link.startswith(sandbox.envd_direct_url)
        assert await _fetch(link) == (200, "signed")
        assert (await _fetch(link.replace("path=f", "path=g")))[0] == 401
        limited = await sandbox.download_url("f", use_signature_expiration=60)
        assert await _fetch(limited) == (200, "signed")
        over = await sandbox.download_url("f", use_signature_expiration=-1)
        assert (await _fetch(over))[0] == 401
        boundary = "x" * 20
        part = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="u"\r\n\r\nup\r\n--{boundary}--\r\n'
        )
        upload = await sandbox.upload_url("u", user="root")
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        assert (await _fetch(upload, part.encode(), headers))[0] == 200
        assert await sandbox.files.read("/root/u", user="root") == "up"


@shows("Sandbox.get_host", "Sandbox.sandbox_domain")
async def check_a_port(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await _echo(sandbox)
        host = await sandbox.get_host(8000)
        assert host == f"8000-{sandbox.sandbox_id}.{sandbox.sandbox_domain}"

        async def answers() -> bool:
            return (await _visit(host))[0] == 200

        await eventually(answers)


@shows("Sandbox.traffic_access_token", "Sandbox.create", since="2.45")
async def check_ports_that_ask_for_a_token(client: Client) -> None:
    network = {"allow_public_traffic": False, "mask_request_host": "app.test:${PORT}"}
    async with client.sandbox("code-interpreter-v1", network=network) as sandbox:
        await _echo(sandbox)
        host = await sandbox.get_host(8000)
        token = {"e2b-traffic-access-token": sandbox.traffic_access_token}

        async def answers() -> bool:
            return (await _visit(host, **token))[0] == 200

        await eventually(answers)
        assert (await _visit(host))[0] == 403
        assert "host: app.test:8000" in (await _visit(host, **token))[1].lower()
        assert (await sandbox.run_code("1 + 1")).text == "2", "the client sends the token itself"


@shows("Sandbox.get_mcp_url", "Sandbox.get_mcp_token", "Sandbox.mcp_port", "Sandbox.create", since="2.45")
async def check_a_gateway_for_tools(client: Client) -> None:
    async with client.sandbox() as sandbox:
        assert await sandbox.get_mcp_url() == f"https://{await sandbox.get_host(sandbox.mcp_port)}/mcp"
        await sandbox.files.write("/etc/mcp-gateway/.token", "t-1", user="root")
        assert await sandbox.get_mcp_token() == "t-1"


@shows("Sandbox.connection_config", "Sandbox.envd_api_url", way="address")
async def check_where_requests_go(client: Client, connection: dict[str, str]) -> None:
    async with client.sandbox() as sandbox:
        assert sandbox.connection_config.api_url == connection["api_url"]
        status, _ = await _fetch(
            f"{sandbox.envd_api_url}/health", None, {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
        )
        assert status == 204


@shows("Sandbox.connection_config", "Sandbox.envd_api_url", "Sandbox.get_host", way="domain")
async def check_where_requests_go_by_domain(client: Client, connection: dict[str, str]) -> None:
    async with client.sandbox() as sandbox:
        assert sandbox.connection_config.domain == sandbox.sandbox_domain == connection["domain"]
        assert sandbox.envd_api_url == f"https://{await sandbox.get_host(49983)}"


async def _visit(host: str, **headers: str) -> tuple[int, str]:
    """What a port of a sandbox says; where names do not resolve, the one address of the service stands for them."""
    if direct := os.environ.get("E2B_SANDBOX_URL"):
        return await _fetch(direct, None, {**headers, "Host": host})
    return await _fetch(f"https://{host}/", None, headers)


async def _fetch(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)
