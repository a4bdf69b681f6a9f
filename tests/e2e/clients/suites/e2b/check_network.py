"""What goes out of a sandbox. The hosts are those of a small internet that the test has made."""

from __future__ import annotations

import os
from typing import Any

from harness import Client, shows


@shows("Sandbox.create")
async def check_access_at_creation(client: Client) -> None:
    near, *_ = _hosts()
    async with client.sandbox() as opened, client.sandbox(allow_internet_access=False) as closed:
        assert await _reaches(opened, near)
        assert not await _reaches(closed, near)


@shows("Sandbox.create", since="2.45")
async def check_allowed_and_denied_hosts(client: Client) -> None:
    near, far, *_ = _hosts()
    network = {"allow_out": [far], "deny_out": [client.types.ALL_TRAFFIC]}
    async with client.sandbox(network=network) as sandbox:
        assert not await _reaches(sandbox, near)
        assert await _reaches(sandbox, far)


@shows("Sandbox.update_network Sandbox.get_info", since="2.63")
async def check_changes(client: Client) -> None:
    near, far, *_ = _hosts()
    async with client.sandbox() as sandbox:
        await sandbox.update_network({"deny_out": [near]})
        assert not await _reaches(sandbox, near)
        assert await _reaches(sandbox, far)
        assert (await sandbox.get_info()).network["deny_out"] == [near]
        await client.Sandbox.update_network(sandbox.sandbox_id, {"allow_internet_access": False})
        assert not await _reaches(sandbox, far)
        await sandbox.update_network({})
        assert await _reaches(sandbox, near)


def _hosts() -> list[str]:
    return os.environ["CHECKS_HOSTS"].split(",")


async def _reaches(sandbox: Any, host: str) -> bool:
    script = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/80 && head -1 <&3' 2>/dev/null || echo refused"
    done = await sandbox.commands.run(script)
    assert done.stdout.startswith((host, "refused")), done
    return bool(done.stdout.startswith(host))
