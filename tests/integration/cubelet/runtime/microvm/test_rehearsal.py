"""Machines that are started before anybody asks have run a first command, whose code is translated by then. Forks have
it from their zygote, so there are none here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.envd.guest import GuestProcess, SpawnRequest
from cube.model.errors import HostError
from support.vm_node import VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    async with vm_node(tmp_path, vm_zygotes=0) as running:
        await running.create()  # the template is captured, which runs commands too
        yield running


@pytest.fixture
def commands(node: VmNode, monkeypatch: pytest.MonkeyPatch) -> list[SpawnRequest]:
    """What was run in guests."""
    run: list[SpawnRequest] = []
    plain = MicroVMGuest.spawn

    async def spawn(guest: MicroVMGuest, request: SpawnRequest) -> GuestProcess:
        run.append(request)
        return await plain(guest, request)

    monkeypatch.setattr(MicroVMGuest, "spawn", spawn)
    return run


async def test_a_shell_has_run_in_it_and_left_nothing(node: VmNode, commands: list[SpawnRequest]) -> None:
    machine = await node.runtime.create(node.spec(), ahead=True)
    (first,) = commands
    assert first.argv == ("/bin/bash", "-l", "-c", "echo")
    assert first.user == node.template.config.user
    await node.runtime.hand_out(machine)
    assert await run(machine, "grep -lx bash /proc/[0-9]*/comm; find /tmp /var/tmp -mindepth 1") == ""


async def test_one_that_a_client_waits_for_begins_at_once(node: VmNode, commands: list[SpawnRequest]) -> None:
    await node.create()
    assert commands == []


async def test_a_command_that_cannot_run_is_left_out(node: VmNode, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> GuestProcess:
        raise HostError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(MicroVMGuest, "spawn", refuse)
        machine = await node.runtime.create(node.spec(), ahead=True)
    assert await run(machine, "echo on") == "on"


async def test_one_that_is_given_up_meanwhile_is_ended(node: VmNode, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()

    async def hang(*_: object) -> GuestProcess:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    spec = node.spec()
    with monkeypatch.context() as patch:
        patch.setattr(MicroVMGuest, "spawn", hang)
        creating = asyncio.create_task(node.runtime.create(spec, ahead=True))
        await asyncio.wait_for(reached.wait(), 60)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert spec.sandbox_id not in await node.runtime.leftovers()
