"""Network policies through the API and E2B's own client, on a machine with an internet of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import CommandExitException, Sandbox

from support.dns_server import SERVER, name_server
from support.machine import HOSTS, MACHINE, greeters, machine
from support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.own_process]

#: See :class:`support.service.Service`.
_PART = 7
NEAR, OTHER, FAR, _ = HOSTS
ALL = "0.0.0.0/0"
ZONE = {"a.test": {"A": [NEAR]}, "b.test": {"A": [OTHER]}}
#: A connection that stays open: greets, then says what comes back of every line in a file.
TALK = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 80), timeout=5)
print(s.recv(100).decode().strip(), flush=True)
while True:
    time.sleep(0.05)
    try: s.sendall(b'x'); s.recv(10)
    except OSError as error: print('cut', flush=True); break
    else: open('/tmp/alive', 'a').write('x')
"""


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("network")
    more = {"CUBE_DNS_SERVERS": SERVER}
    with machine() as internet, greeters(internet), name_server(internet, ZONE, str(directory / "asked")):
        service = Service(directory, templates, _PART, more=more)
        service.up()
        try:
            yield service
        finally:
            service.close()


def reach(sandbox: Sandbox, host: str, port: int = 80) -> str:
    """What a connection gives: the greeting, or how it fails."""
    script = f"exec 3<>/dev/tcp/{host}/{port} && head -1 <&3"
    try:
        return sandbox.commands.run(f"timeout 5 bash -c '{script}'").stdout.strip()
    except CommandExitException as error:
        return "refused" if "refused" in error.stderr else error.stderr


def created(service: Service, **options: Any) -> Sandbox:
    return Sandbox.create("base", **service.client, **options)


def test_policy_at_creation(service: Service) -> None:
    with created(service) as opened, created(service, allow_internet_access=False) as closed:
        assert reach(opened, NEAR) == f"{NEAR} {MACHINE}"
        assert reach(closed, NEAR) == "refused"
        assert reach(opened, "169.254.169.254") == "refused"
    with created(service, network={"allow_out": [OTHER], "deny_out": [ALL]}) as some:
        assert reach(some, NEAR) == "refused"
        assert reach(some, OTHER) == f"{OTHER} {MACHINE}"


def test_change_while_a_connection_is_open(service: Service) -> None:
    """It is cut, new ones are refused; ``{}`` opens everything again."""
    with created(service) as sandbox:
        sandbox.files.write("/tmp/talk.py", TALK)
        talk = sandbox.commands.run(f"python3 /tmp/talk.py {NEAR}", background=True)
        sandbox.commands.run("until test -e /tmp/alive; do sleep 0.05; done")
        sandbox.update_network({"deny_out": [NEAR]})
        assert reach(sandbox, NEAR) == "refused"
        assert talk.wait().stdout == f"{NEAR} {MACHINE}\ncut\n"
        assert reach(sandbox, FAR) == f"{FAR} {MACHINE}"
        sandbox.update_network({})
        assert reach(sandbox, NEAR) == f"{NEAR} {MACHINE}"


def test_policies_survive_pauses_crashes_and_restarts(service: Service) -> None:
    with created(service, network={"deny_out": [NEAR]}) as sandbox:
        sandbox.pause()
        sandbox.connect()
        assert reach(sandbox, NEAR) == "refused"
        sandbox.update_network({"deny_out": [FAR]})
        service.kill()
        service.up()
        assert reach(sandbox, NEAR) == f"{NEAR} {MACHINE}"
        assert reach(sandbox, FAR) == "refused"
        info = service.get(f"/sandboxes/{sandbox.sandbox_id}").json()
        assert info["network"]["denyOut"] == [FAR]


def test_the_next_sandbox_on_an_address_has_its_own_policy(service: Service) -> None:
    """More sandboxes than there are addresses ready, one after the other: none of them inherits anything."""
    for _ in range(6):
        with created(service, allow_internet_access=False) as closed:
            assert reach(closed, NEAR) == "refused"
        with created(service) as opened:
            assert reach(opened, NEAR) == f"{NEAR} {MACHINE}"


def test_e8_names_are_asked_of_the_gateway_and_allowed_ones_connect(service: Service) -> None:
    """With the sandbox's own resolver, as programs use it."""
    with created(service, network={"allow_out": ["a.test"], "deny_out": [ALL]}) as sandbox:
        assert reach(sandbox, "a.test") == f"{NEAR} {MACHINE}"
        assert OTHER in sandbox.commands.run("getent hosts b.test").stdout
        assert reach(sandbox, "b.test") == "refused"


def test_f3_without_internet_access_names_do_not_resolve(service: Service) -> None:
    with created(service, allow_internet_access=False) as sandbox, pytest.raises(CommandExitException):
        sandbox.commands.run("RES_OPTIONS='timeout:1 attempts:1' getent hosts a.test")


def test_networks_are_listed_with_their_policy(service: Service) -> None:
    """``cube network ls`` asks the agent within the service."""
    sandbox = created(service, network={"deny_out": [ALL], "allow_out": [NEAR]})
    try:
        listed = {one["sandboxId"]: one for one in json.loads(service.run("network", "ls", "--json").stdout)}
        shown = json.loads(service.run("network", "show", sandbox.sandbox_id, "--json").stdout)
        assert listed[sandbox.sandbox_id] == shown
        assert (shown["owner"], shown["kind"]) == ("node", "veth")
        assert shown["policy"] == {"allowOut": [NEAR], "denyOut": [ALL]}
        address = sandbox.commands.run("hostname -I").stdout.strip()
        assert shown["persistMetadata"]["sandbox_ip"] == address
        assert "ready" in service.run("network", "health").stdout
    finally:
        sandbox.kill()
    assert sandbox.sandbox_id not in service.run("network", "ls").stdout
