"""What E2B's client can ask of the API beyond the life of a sandbox: the unmodified client against a real service."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox, SandboxException

from support.service import Service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the settings that these tests need."""
    service = Service(tmp_path_factory.mktemp("features"), templates, "e2ef", "10.238.0.0/20")
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def test_a_create_with_the_same_key_is_the_same_sandbox(service: Service, key: str) -> None:
    first = Sandbox.create("base", idempotency_key=key, **service.client)
    first.files.write("mark", "here")
    again = Sandbox.create("base", idempotency_key=key, **service.client)
    assert again.sandbox_id == first.sandbox_id
    assert again.files.read("mark") == "here"
    with pytest.raises(SandboxException, match="422"):
        Sandbox.create("base", idempotency_key=key, timeout=17, **service.client)
    assert again.kill()


def ask(service: Service, sandbox: Sandbox, port: int, path: str = "/", **headers: str) -> httpx.Response:
    """The answer of a port; a proxy that outlived its service says 503 until the new one can be asked."""
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    deadline = time.monotonic() + 10
    while True:
        answer = httpx.get(service.url + path, headers={**routing, **headers}, timeout=30, trust_env=False)
        if answer.status_code != 503 or time.monotonic() > deadline:
            return answer


ECHO = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.headers).encode())
http.server.HTTPServer(("", 8000), Echo).serve_forever()
"""


def test_ports_of_a_sandbox_without_public_traffic_ask_for_its_token(service: Service) -> None:
    network = {"allow_public_traffic": False, "mask_request_host": "app.test:${PORT}"}
    sandbox = Sandbox.create(
        "code-interpreter-v1", network=network, lifecycle={"on_timeout": "pause", "auto_resume": True}, **service.client
    )
    token = sandbox.traffic_access_token
    assert token
    sandbox.files.write("echo.py", ECHO)
    sandbox.commands.run("exec python3 echo.py > /dev/null 2>&1", background=True)
    wait_for_port(sandbox, 8000)
    secured = {"e2b-traffic-access-token": token}
    for _ in range(2):
        for port in (8000, 49999):
            assert ask(service, sandbox, port, "/health").status_code == 403
            refused = ask(service, sandbox, port, "/health", **{"e2b-traffic-access-token": "x" * len(token)})
            assert (refused.status_code, refused.json()["sandboxId"]) == (403, sandbox.sandbox_id)
        assert ask(service, sandbox, 49999, "/health", **secured).status_code == 200
        seen = ask(service, sandbox, 8000, **secured).text.lower()
        assert "host: app.test:8000" in seen
        assert "token" not in seen
        service.kill()
        service.up()
    sandbox.pause()
    assert ask(service, sandbox, 8000).status_code == 403
    assert ask(service, sandbox, 49999, "/health").status_code == 403
    assert Sandbox.get_info(sandbox.sandbox_id, **service.client).state.value == "paused"
    assert ask(service, sandbox, 8000, **secured).status_code == 200
    assert Sandbox.connect(sandbox.sandbox_id, **service.client).traffic_access_token == token
    sandbox.kill()


def wait_for_port(sandbox: Sandbox, port: int) -> None:
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    probe = f'python3 -c "{connect}" 2>/dev/null && echo open || true'
    deadline = time.monotonic() + 10
    while "open" not in sandbox.commands.run(probe).stdout:
        assert time.monotonic() < deadline, "nobody listens"
