"""Egress rules from the client to the wire: a service, its sandboxes, and an internet of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from e2b import Sandbox

from cube.egress.audit.log import read
from support.egress.asking import SECRET, created, fetch, rule, run, seen_at
from support.egress.internet import SETTINGS, trust
from support.egress.sites import Internet
from support.images import CACHE
from support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.own_process]

#: See :class:`support.service.Service`.
_PART = 8


@pytest.fixture(scope="module")
def service(internet: Internet, directory: Path, templates: Path) -> Iterator[Service]:
    more = {**SETTINGS, "CUBE_EGRESS_TRUST": trust(directory), "CUBE_LOG_LEVEL": "debug"}
    service = Service(directory / "service", templates, _PART, more=more)
    # The authority that the templates were built with.
    shutil.copytree(CACHE / "ca", directory / "service" / "state" / "ca")
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(autouse=True)
def _nothing_seen(internet: Internet) -> None:
    internet.clear()


def test_e1_and_e5_what_is_allowed_arrives_with_the_credential(service: Service, internet: Internet) -> None:
    with created(service, rule("api", "api.a.test", inject=True), rule("no", "other.test", allow=False)) as sandbox:
        allowed = seen_at(sandbox, "https://api.a.test/allowed")
        denied = fetch(sandbox, "https://other.test/denied")

        assert dict(allowed["headers"])["authorization"] == f"Bearer {SECRET}"
        assert denied.startswith("403 ")
        assert "denied_by_rule" in denied
        assert internet.targets() == ["/allowed"]
        environment = run(sandbox, f"env; grep -rs {SECRET} /home /tmp /etc /run /proc/*/environ 2>/dev/null | head -1")
        assert SECRET not in environment


def test_e4_without_rules_the_genuine_certificate_is_seen(service: Service, internet: Internet) -> None:
    with created(service, network={}) as sandbox:
        assert genuine(sandbox, internet, "api.a.test")["target"] == "/genuine"


def test_e4_only_what_rules_name_is_looked_into(service: Service, internet: Internet) -> None:
    network = {"rules": [rule("api", "api.a.test")]}
    with created(service, network=network) as sandbox:
        intercepted = seen_at(sandbox, "https://api.a.test/")

        assert intercepted["sni"] == "api.a.test"
        assert genuine(sandbox, internet, "other.test")["sni"] == "other.test"


def genuine(sandbox: Sandbox, internet: Internet, host: str) -> Any:
    """The request as the server saw it, from a program that trusts the test's internet and nobody else."""
    sandbox.files.write("/tmp/world.crt", internet.authority.certificate_pem.decode())
    return json.loads(run(sandbox, f"curl -sS --cacert /tmp/world.crt https://{host}/genuine"))


@pytest.mark.parametrize(
    "command",
    [
        "curl -sS https://api.a.test/x",
        "wget -qO- https://api.a.test/x",
        "node -e 'fetch(\"https://api.a.test/x\").then(a => a.text()).then(console.log)'",
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"https://api.a.test/x\").read().decode())'",
        "python3 -c 'from pip._vendor import requests as r; print(r.get(\"https://api.a.test/x\").text)'",
        "sudo curl -sS https://api.a.test/x",
    ],
    ids=["curl", "wget", "node", "urllib", "requests", "root"],
)
def test_e11_programs_believe_the_gateway(service: Service, command: str) -> None:
    with created(service, rule("api", "api.a.test", inject=True)) as sandbox:
        answer = run(sandbox, command)

        assert answer.startswith("{"), answer
        assert dict(json.loads(answer)["headers"])["authorization"] == f"Bearer {SECRET}"


def test_e12_the_template_says_what_of_the_authority_is_in_it(service: Service) -> None:
    shown = service.get("/templates/base").json()["cubeCa"]

    certificate = service.get("/cube/ca/cube-root-ca.crt").content
    assert shown["baked"] is True
    assert shown["fingerprint"] == x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()
    assert "/etc/ssl/certs/ca-certificates.crt" in shown["targetsWritten"]


def test_e2b_transforms_inject_for_their_host(service: Service, internet: Internet) -> None:
    network = {"rules": {"api.a.test": [{"transform": {"headers": {"X-Key": SECRET}}}]}}
    with created(service, network=network) as sandbox:
        seen = dict(seen_at(sandbox, "https://api.a.test/")["headers"])

        assert seen["x-key"] == SECRET
        assert seen["authorization"] == "forged"


def test_e10_requests_are_in_the_audit_log_under_the_sandbox(service: Service) -> None:
    with created(service, rule("api", "api.a.test", audit="full", inject=True)) as sandbox:
        fetch(sandbox, "https://api.a.test/audited?token=hunter2")
        found = audited(service, sandbox.sandbox_id, 1)

        assert found[0]["http"]["path"] == "/audited?token=***REDACTED***"
        assert found[0]["credentials"]["injected"] == ["Authorization"]
        assert SECRET not in json.dumps(found)


def audited(service: Service, sandbox_id: str, count: int) -> list[dict[str, Any]]:
    path = Path(service.environment["CUBE_STATE_DIR"]) / "log" / "egress" / "access.jsonl"
    deadline = time.monotonic() + 20
    while True:
        found = [one for one in read(path) if one["sandbox"]["policy_id"] == sandbox_id]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_e15_policies_outlive_both_sides(service: Service, internet: Internet) -> None:
    """A crash of the service and a restart: rules are in force again, and closed in between."""
    with created(service, rule("api", "api.a.test", inject=True)) as sandbox:
        assert seen_at(sandbox, "https://api.a.test/before")["target"] == "/before"
        service.kill()
        service.up()
        again = seen_at(sandbox, "https://api.a.test/after")

        assert dict(again["headers"])["authorization"] == f"Bearer {SECRET}"


def test_e2_the_policy_of_the_api_reaches_the_gateway_and_is_shown_masked(service: Service) -> None:
    with created(service, rule("api", "api.a.test", inject=True)) as sandbox:
        (listed,) = told(service, "ls")
        shown = told(service, "show", sandbox.sandbox_id)
        asked = admin(service, f"/policies/{listed['ip']}")

        assert listed == {"ip": listed["ip"], "policy_id": sandbox.sandbox_id, "rules": 1, "in_force": True}
        assert shown == asked
        assert shown["rules"][0]["action"]["inject"][0]["secret"] == "***REDACTED***"
        assert SECRET not in json.dumps([shown, admin(service, "/dump")])


def told(service: Service, *words: str) -> Any:
    return json.loads(service.run("egress", *words, "--json").stdout)


def admin(service: Service, path: str) -> Any:
    socket = service.run_dir / "egress-admin.sock"
    assert (socket.stat().st_mode & 0o007, socket.stat().st_uid) == (0, 0)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), trust_env=False) as client:
        return client.get(f"http://egress/admin/v1{path}").json()


def test_e5_a_kept_secret_is_filled_in_at_the_gateway(service: Service, internet: Internet) -> None:
    made = rule("api", "api.a.test", inject=True)
    made["action"]["inject"][0]["secret"] = "${e2b.secrets.model-key}"
    with created(service, made) as sandbox:
        before = fetch(sandbox, "https://api.a.test/before")
        assert service.post("/secrets", {"name": "model-key", "value": SECRET}).status_code == 201
        wait_for(lambda: fetch(sandbox, "https://api.a.test/after").startswith("{"))

        assert before.startswith("403 ")
        assert "secret_missing_in_policy" in before
        assert internet.seen[0].all("authorization") == [f"Bearer {SECRET}"]
        assert SECRET not in run(sandbox, "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")


def test_e14_every_part_says_which_build_it_is(service: Service) -> None:
    health = admin(service, "/health")
    parts = {one["component"]: one for one in json.loads(service.run("version", "--json").stdout)}

    assert parts["cube-egress"]["source"] == "file"
    assert all(parts["cube-egress"][key] == health[key] for key in ("version", "commit", "build_time"))
    assert {"version", "commit", "build_time", "source"} <= parts["cube"].keys()


def test_e16_without_the_gateway_nothing_that_it_judges_goes_out(service: Service, internet: Internet) -> None:
    script = "while true; do curl -s -m 2 -o /dev/null http://api.a.test/e16; sleep 0.1; done"
    with created(service, rule("api", "api.a.test")) as sandbox:
        sandbox.commands.run(script, background=True)
        wait_for(lambda: "/e16" in internet.targets())
        service.kill()
        kill_envoy(service)
        time.sleep(0.3)
        internet.clear()
        time.sleep(2)
        meanwhile = internet.targets()
        service.up()
        wait_for(lambda: "/e16" in internet.targets())

        assert meanwhile == []


def kill_envoy(service: Service) -> None:
    state = json.loads((service.run_dir / "egress" / "envoy.state").read_text())
    os.kill(state["identity"]["pid"], signal.SIGKILL)


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_e15_policies_outlive_a_clean_restart(service: Service, internet: Internet) -> None:
    with created(service, rule("api", "api.a.test", inject=True)) as sandbox:
        os.kill(service.pid, signal.SIGTERM)
        wait_for(lambda: not service.run_dir.joinpath("cube.pid").exists())
        service.up()
        again = seen_at(sandbox, "https://api.a.test/after")

        assert dict(again["headers"])["authorization"] == f"Bearer {SECRET}"
        assert told(service, "show", sandbox.sandbox_id)["rules"][0]["id"] == "api"


def test_the_audit_log_is_read_and_followed(service: Service) -> None:
    with created(service, rule("api", "api.a.test")) as sandbox:
        fetch(sandbox, "https://api.a.test/first")
        audited(service, sandbox.sandbox_id, 1)
        command = [sys.executable, "-m", "cube.cli.main", "egress", "audit", "--sandbox", sandbox.sandbox_id]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "env": service.environment}
        with subprocess.Popen([*command, "--follow"], **options) as reader:
            assert reader.stdout is not None
            first = reader.stdout.readline()
            fetch(sandbox, "https://api.a.test/second")
            second = reader.stdout.readline()
            reader.terminate()

        assert "allow GET https://api.a.test/first 200 rule=api" in first
        assert "allow GET https://api.a.test/second 200 rule=api" in second


def test_the_guide_leads_to_a_rule_that_works_and_is_audited(service: Service, internet: Internet) -> None:
    """docs/egress.md, followed to the letter, but for the name of the API; what the service and its templates are
    started with is the test's own."""
    create, inside, look = (block.replace("api.example.com", "api.a.test") for block in guide()[1:4])
    sandbox_id = json.loads(shell(service, create))["sandboxID"]
    with Sandbox.connect(sandbox_id, **service.client) as sandbox:
        answers = run(sandbox, inside)
        audited(service, sandbox_id, 3)
        told = shell(
            service, look.replace("cube ", f"{sys.executable} -m cube.cli.main ").replace("<sandboxID>", sandbox_id)
        )

        assert "Bearer sk-..." in answers
        assert '"no_rule_match"' in answers
        assert internet.targets() == ["/v1/chat"]
        assert "allow POST https://api.a.test/v1/chat 200 rule=llm" in told
        assert "deny GET https://api.a.test/v2/other 403" in told
        assert "host=api.a.test method=POST path=/v1/*" in told
        assert "sk-..." not in told


def guide() -> list[str]:
    """The commands of the first section, block by block."""
    text = (Path(__file__).parents[2] / "docs" / "egress.md").read_text(encoding="utf-8")
    section = text.split("\n## ")[1]
    return [block.partition("```")[0] for block in section.split("```sh\n")[1:]]


def shell(service: Service, commands: str) -> str:
    return subprocess.run(
        ["bash", "-e", "-c", commands], env=service.environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_e7_secrets_are_in_no_file_of_the_service_and_no_answer(service: Service) -> None:
    with created(service, rule("api", "api.a.test", inject=True)) as sandbox:
        fetch(sandbox, "https://api.a.test/e7")
        shown = service.get(f"/sandboxes/{sandbox.sandbox_id}").text + service.get("/v2/sandboxes").text
        places = [service.directory, service.run_dir]
        held = [path for place in places for path in files_below(place) if SECRET.encode() in path.read_bytes()]

        assert SECRET not in shown
        assert "***REDACTED***" in shown
        assert held == []
        # At debug level the rules are logged, masked.
        log = (service.directory / "state" / "log" / "cube.log").read_text()
        assert f"egress rules of {admin(service, '/policies')['policies'][0]['ip']}" in log
        assert "***REDACTED***" in log


def files_below(place: Path) -> list[Path]:
    small = 64 * 1024 * 1024
    inner = ("templates", "volume", "stage", "images")
    found = (path for path in place.rglob("*") if not set(inner) & set(path.relative_to(place).parts))
    return [path for path in found if path.is_file() and not path.is_symlink() and path.stat().st_size < small]
