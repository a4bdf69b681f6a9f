"""The public port: which request goes where."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from e2b import Sandbox

from support import client_environments
from support.service import Service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[Sandbox]:
    with Sandbox.create("base", **service.client) as sandbox:
        sandbox.files.write("index.html", "hello from inside")
        server = sandbox.commands.run("exec python3 -u -m http.server 8000 2>&1", background=True)
        assert "Serving" in next(iter(server))[0]
        yield sandbox


def test_the_api_is_at_the_root_and_under_its_prefix(service: Service) -> None:
    for path in ("/health", "/cubeapi/v1/health"):
        assert service.get(path).json()["status"] == "ok"
    assert "/sandboxes" in service.get("/openapi.json").json()["paths"]


def test_a_port_by_headers(service: Service, sandbox: Sandbox) -> None:
    answer = service.get("/index.html", E2b_Sandbox_Id=sandbox.sandbox_id, E2b_Sandbox_Port="8000")
    assert answer.text == "hello from inside"


def test_a_port_by_host_name(service: Service, sandbox: Sandbox) -> None:
    answer = service.get("/index.html", Host=f"8000-{sandbox.sandbox_id}.localhost:{service.port}")
    assert answer.text == "hello from inside"


def test_the_host_name_that_the_client_computes(service: Service, sandbox: Sandbox) -> None:
    assert sandbox.get_host(8000) == f"8000-{sandbox.sandbox_id}.localhost:{service.port}"


def test_nobody_listens(service: Service, sandbox: Sandbox) -> None:
    answer = service.get("/", E2b_Sandbox_Id=sandbox.sandbox_id, E2b_Sandbox_Port="8001")
    assert answer.status_code == 502
    assert answer.json()["port"] == 8001
    assert "port is not open" in answer.json()["message"]


@pytest.mark.parametrize("port", ["8000", "49983", "49999"])
def test_an_unknown_sandbox(service: Service, port: str) -> None:
    answer = service.get("/health", E2b_Sandbox_Id="i0000000000000000000", E2b_Sandbox_Port=port)
    assert answer.status_code == 404
    assert "not found" in answer.json()["message"]


@pytest.mark.parametrize("headers", [{"E2b_Sandbox_Id": "abc"}, {"E2b_Sandbox_Port": "80"}])
def test_half_an_address_is_refused(service: Service, headers: dict[str, str]) -> None:
    assert service.get("/", **headers).status_code == 400


def test_internal_routes_are_closed(service: Service, sandbox: Sandbox) -> None:
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    answer = httpx.post(f"{service.url}/init", json={"accessToken": "mine"}, headers=headers, trust_env=False)
    assert answer.status_code == 404


def test_the_agent_asks_for_the_token(service: Service, sandbox: Sandbox) -> None:
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    answer = httpx.post(f"{service.url}/process.Process/List", json={}, headers=headers, trust_env=False)
    assert answer.status_code == 401


def test_signed_download_needs_no_header(service: Service, sandbox: Sandbox) -> None:
    url = sandbox.download_url("index.html")
    assert httpx.get(url, trust_env=False).text == "hello from inside"
    assert httpx.get(url[:-3] + "xyz", trust_env=False).status_code == 401


#: CubeSandbox's client, told which address its host names are at: uploads argv[3] of megabytes as a form.
_OVERRIDDEN = """
import hashlib, httpx, os, sys
from cubesandbox._transport import IPOverrideTransport
port, url, megabytes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
content = os.urandom(megabytes << 20)
with httpx.Client(transport=IPOverrideTransport("127.0.0.1", port), timeout=60) as client:
    print(client.post(url, files={"file": ("f9", content)}).status_code, hashlib.sha256(content).hexdigest())
"""


def test_f9_a_form_sent_through_another_address_arrives_whole(service: Service, sandbox: Sandbox) -> None:
    query = httpx.URL(sandbox.upload_url("/home/user/f9")).query.decode()
    url = f"http://49983-{sandbox.sandbox_id}.localhost/files?{query}"
    command = [str(client_environments.python("cubesandbox")), "-c", _OVERRIDDEN, str(service.port), url, "3"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    assert said == ["200", hashlib.sha256(sandbox.files.read("/home/user/f9", format="bytes")).hexdigest()]


def test_a_killed_sandbox_is_gone_on_every_port(service: Service) -> None:
    sandbox = Sandbox.create("base", **service.client)
    sandbox.kill()
    for port in ("49983", "49999", "8000"):
        answer = service.get("/health", E2b_Sandbox_Id=sandbox.sandbox_id, E2b_Sandbox_Port=port)
        assert answer.status_code == 502
        assert answer.json()["message"] == "The sandbox was not found"
