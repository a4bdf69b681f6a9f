"""Egress rules as a client asks for them, and requests as programs inside of a sandbox make them."""

from __future__ import annotations

import json
from typing import Any

from e2b import CommandExitException, Sandbox

from support.service import Service

SECRET = "S3CR3T-of-the-test"
#: Everybody's own name server; names that the test's internet has.
PYTHON = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context()
request = urllib.request.Request(sys.argv[1], headers={'Authorization': 'forged', 'X-Api-Key': 'mine'})
try:
    with urllib.request.urlopen(request, timeout=60, context=context) as answer: print(answer.read().decode())
except urllib.error.HTTPError as error: print(error.code, error.read().decode())
except (OSError, urllib.error.URLError) as error: print('failed', error)
"""


def rule(name: str, host: str, *, allow: bool = True, audit: str = "metadata", inject: bool = False) -> dict[str, Any]:
    action: dict[str, Any] = {"allow": allow, "audit": audit}
    if inject:
        action["inject"] = [{"header": "Authorization", "secret": SECRET, "format": "Bearer ${SECRET}"}]
    return {"name": name, "match": {"host": host}, "action": action}


def created(service: Service, *rules: dict[str, Any], network: dict[str, Any] | None = None) -> Sandbox:
    wanted: dict[str, Any] = {"denyOut": ["0.0.0.0/0"], "rules": list(rules)} if network is None else network
    body = {"templateID": "base", "network": wanted, "timeout": 300}
    answer = service.post("/sandboxes", body)
    assert answer.status_code == 201, answer.text
    return Sandbox.connect(answer.json()["sandboxID"], **service.client)


def fetch(sandbox: Sandbox, url: str) -> str:
    return run(sandbox, f'python3 -c "$SCRIPT" {url}', envs={"SCRIPT": PYTHON}).strip()


def seen_at(sandbox: Sandbox, url: str) -> Any:
    """The request as the server saw it."""
    answer = fetch(sandbox, url)
    assert answer.startswith("{"), answer
    return json.loads(answer)


def run(sandbox: Sandbox, command: str, timeout: float = 40, **options: Any) -> str:
    try:
        return sandbox.commands.run(command, timeout=timeout, **options).stdout
    except CommandExitException as error:
        return f"exit {error.exit_code}: {error.stdout}{error.stderr}"
