"""Machines that are forked from one that stands still: what each has for itself, and what happens when that fails."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm import forks
from cube.cubelet.runtime.microvm.forks import Belongings, ForkRefused
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.runtime.microvm.vmm import Doors
from cube.cubelet.runtime.microvm.zygote import Zygote
from cube.model.sandbox import Condition
from support.descriptors import open_fds
from support.launch_ground import exists, status
from support.vm_node import VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    async with vm_node(tmp_path) as running:
        yield running


@pytest.fixture
async def fork(node: VmNode) -> MicroVMInstance:
    return await node.create()


async def zygote(node: VmNode) -> Zygote:
    """The one that the last sandbox was forked from."""
    source = await node.runtime._templates.get(node.template)
    found = await node.runtime._zygotes.get(source, node.spec())
    assert found is not None
    return found


def pid(instance: MicroVMInstance) -> int:
    return instance.running.vmm.pid


def laps(node: VmNode, instance: MicroVMInstance) -> set[str]:
    """The parts that its start had."""
    record = node.runtime._records.read(instance.sandbox_id)
    assert record is not None
    return set(record.began)


def opened(process: int) -> dict[str, str]:
    """What its descriptors are, by number."""
    return {entry.name: os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()}


def cgroups(process: int) -> list[str]:
    """Where it is in each hierarchy."""
    return Path(f"/proc/{process}/cgroup").read_text().splitlines()


def events(process: int) -> set[str]:
    """The kernel's numbers of its descriptors of events."""
    found = (entry.read_text() for entry in Path(f"/proc/{process}/fdinfo").iterdir())
    return {match[1] for text in found if (match := re.search(r"eventfd-id:\s*(\d+)", text))}


def mounts(process: int | str) -> str | None:
    """The mount namespace of a process, which a zygote and its forks share; ``None`` when it has gone."""
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return None


def members(family: str | None) -> set[str]:
    """Ids of the processes in a mount namespace."""
    return {name for name in os.listdir("/proc") if name.isdigit() and mounts(name) == family}


class TestOfItsOwn:
    """What a fork does not share with anybody."""

    async def test_it_is_one(self, node: VmNode, fork: MicroVMInstance) -> None:
        assert "fork" in laps(node, fork)
        assert "qemu" not in laps(node, fork)
        assert (await zygote(node)).started.vmm.pid != pid(fork)

    async def test_user(self, node: VmNode, fork: MicroVMInstance) -> None:
        other = await node.create()
        users = {ids["Uid"] for ids in (status(pid(fork)), status(pid(other)), status(await self._pid(node)))}
        assert len(users) == 3
        for ids in users:
            assert len(set(ids.split())) == 1
            assert int(ids.split()[0]) >= node.settings.id_base

    async def test_no_rights_and_one_filter_more(self, node: VmNode, fork: MicroVMInstance) -> None:
        found = status(pid(fork))
        assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
        assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "3")
        assert found["Groups"] == ""

    async def test_all_its_threads_have_them_too(self, node: VmNode, fork: MicroVMInstance) -> None:
        of_zygote = len(os.listdir(f"/proc/{await self._pid(node)}/task"))
        tasks = os.listdir(f"/proc/{pid(fork)}/task")
        # All but the one that serves requests; those that are idle come and go.
        assert len(tasks) in (of_zygote - 2, of_zygote - 1, of_zygote)
        for task in tasks:
            found = status(int(task))
            assert (found["CapEff"], found["Seccomp_filters"]) == ("0" * 16, "3")

    async def test_cgroups(self, node: VmNode, fork: MicroVMInstance) -> None:
        assert fork.seat.cgroup is not None
        ours = [name for name in cgroups(pid(fork)) if f"/{node.settings.instance}/" in name]
        assert ours
        assert all(name.endswith(f"/{node.settings.instance}/{fork.seat.index}") for name in ours)

    async def test_descriptors(self, node: VmNode, fork: MicroVMInstance) -> None:
        of_zygote, own = opened(await self._pid(node)), opened(pid(fork))
        assert not events(await self._pid(node)) & events(pid(fork))
        sockets = {name for name in own.values() if name.startswith("socket:")}
        assert not sockets & set(of_zygote.values())
        disks = {name for name in own.values() if name.endswith("/disk")}
        assert disks == {str(node.layer(fork) / "disk")}

    async def test_memory_and_disk(self, node: VmNode, fork: MicroVMInstance) -> None:
        await run(fork, "echo mine > /mine; sync")
        other = await node.create()
        assert await run(other, "cat /mine") != "mine"
        assert await run(fork, "cat /mine") == "mine"

    async def test_name_and_random_numbers(self, node: VmNode, fork: MicroVMInstance) -> None:
        others = [fork, *[await node.create() for _ in range(3)]]
        said = [await run(one, "cat /proc/sys/kernel/random/uuid /etc/machine-id; hostname") for one in others]
        lines = [line for text in said for line in text.splitlines()]
        assert len(lines) == len(set(lines)) == 12

    async def _pid(self, node: VmNode) -> int:
        return (await zygote(node)).started.vmm.pid


class TestLife:
    """Forks and their zygote come and go by themselves."""

    async def test_a_fork_outlives_its_zygote(self, node: VmNode, fork: MicroVMInstance) -> None:
        process = (await zygote(node)).started.vmm.pid
        await node.runtime._zygotes.close()
        assert not exists(process)
        assert await run(fork, "echo on") == "on"

    async def test_one_that_was_killed_is_made_anew(self, node: VmNode, fork: MicroVMInstance) -> None:
        first = await zygote(node)
        os.kill(first.started.vmm.pid, signal.SIGKILL)
        await asyncio.wait_for(first.started.vmm.ended.wait(), 10)
        again = await node.create()
        assert "fork" in laps(node, again)
        assert await zygote(node) is not first
        assert await run(fork, "echo on") == "on"

    async def test_many_at_once(self, node: VmNode) -> None:
        instances = await asyncio.gather(*(node.create() for _ in range(8)))
        assert await asyncio.gather(*(run(one, "hostname") for one in instances)) == [
            one.sandbox_id for one in instances
        ]
        assert all("fork" in laps(node, one) for one in instances)

    async def test_a_fork_pauses_and_resumes(self, node: VmNode, fork: MicroVMInstance) -> None:
        await run(fork, "echo kept > /dev/shm/kept")
        await node.runtime.pause(fork, memory=True)
        await node.runtime.resume(fork.spec, fork, memory=True)
        assert await run(fork, "cat /dev/shm/kept") == "kept"

    async def test_a_service_that_starts_again_finds_forks_and_ends_zygotes(
        self, node: VmNode, fork: MicroVMInstance
    ) -> None:
        process = (await zygote(node)).started.vmm.pid
        # As if it had been killed: nothing is ended.
        await fork.guest.close()
        fork.running.vmm.release()
        again = node.again()
        await again.runtime.start()
        try:
            assert not exists(process)
            adopted = await again.adopt(fork.spec, Condition.RUNNING)
            assert await run(adopted, "hostname") == fork.sandbox_id
        finally:
            await again.runtime.close()

    async def test_what_removes_everything_after_a_crash_ends_them_too(
        self, node: VmNode, fork: MicroVMInstance
    ) -> None:
        parent = (await zygote(node)).started.vmm
        process, its_fork = parent.pid, pid(fork)
        # What the service had open has gone with it.
        await fork.guest.close()
        for machine in (fork.running.vmm, parent):
            machine.release()
        await node.again().runtime.remove()
        assert not exists(process)
        assert not exists(its_fork)

    async def test_without_zygotes_each_is_loaded(self, tmp_path: Path) -> None:
        async with vm_node(tmp_path / "plain", vm_zygotes=0) as plain:
            instance = await plain.create()
            assert {"qemu", "state"} <= laps(plain, instance)
            assert await run(instance, "hostname") == instance.sandbox_id


class TestFailure:
    """A fork that fails leaves nothing, and its sandbox is started without it."""

    async def test_a_refused_fork_is_loaded_instead(
        self, node: VmNode, fork: MicroVMInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(*_: object) -> int:
            raise ForkRefused("not today")

        with monkeypatch.context() as patch:
            patch.setattr(forks, "fork", refuse)
            instance = await node.create()
        assert {"qemu", "state"} <= laps(node, instance)
        assert await run(instance, "hostname") == instance.sandbox_id
        assert "fork" in laps(node, await node.create())

    async def test_a_fork_that_ends_at_once_is_loaded_instead(
        self, node: VmNode, fork: MicroVMInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = forks.fork

        async def fork_and_kill(sock: socket.socket, uid: int, given: Belongings) -> int:
            made = await plain(sock, uid, given)
            os.kill(made, signal.SIGKILL)
            return made

        with monkeypatch.context() as patch:
            patch.setattr(forks, "fork", fork_and_kill)
            instance = await node.create()
        assert {"qemu", "state"} <= laps(node, instance)
        assert await run(instance, "hostname") == instance.sandbox_id

    async def test_one_that_is_busy_is_forked_where_it_waits(self, node: VmNode, fork: MicroVMInstance) -> None:
        """In the middle of its work it has locks, which belong to threads by their ids; a fork has other ids."""
        parent, loop = await zygote(node), asyncio.get_running_loop()
        questions = b'{"execute": "query-blockstats"}' * 20

        async def keep_busy(connection: socket.socket) -> None:
            # Not as anybody else asks: a fork may say again, here too, what its zygote was about to say.
            await loop.sock_sendall(connection, b'{"execute": "qmp_capabilities"}')
            while await loop.sock_recv(connection, 1 << 20):
                await loop.sock_sendall(connection, questions)

        with Doors(node.settings.run_dir / "vm", f"seat{parent.seat.index}").connect("second") as connection:
            connection.setblocking(False)
            busy = asyncio.create_task(keep_busy(connection))
            for _ in range(25):
                instance = await node.create()
                assert "fork" in laps(node, instance)
                await node.runtime.destroy(instance.sandbox_id)
            assert not busy.done()
            busy.cancel()
            await asyncio.wait([busy])

    async def test_the_zygote_refuses_what_makes_no_sense(self, node: VmNode, fork: MicroVMInstance) -> None:
        parent = await zygote(node)
        before = open_fds()
        with pytest.raises(ForkRefused, match=r"\(request\)"):
            await forks.fork(parent.requests, 0, Belongings([0, 0, 0], 0, 0, 0, 0, 0, groups=[]))
        assert open_fds() == before
        assert "fork" in laps(node, await node.create())

    async def test_a_cgroup_that_cannot_be_joined_ends_the_fork(
        self, node: VmNode, fork: MicroVMInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, seen, full = forks.fork, list[int](), os.open("/dev/full", os.O_WRONLY)

        async def fork_elsewhere(sock: socket.socket, uid: int, given: Belongings) -> int:
            seen.append(uid)
            return await plain(sock, uid, replace(given, groups=[full]))

        family = mounts((await zygote(node)).started.vmm.pid)
        before = members(family)
        monkeypatch.setattr(forks, "fork", fork_elsewhere)
        instance = await node.create()
        assert seen
        assert "qemu" in laps(node, instance)
        # The zygote is given up, too.
        assert members(family) < before
        os.close(full)

    async def test_one_that_is_given_up_meanwhile_is_ended(self, node: VmNode, monkeypatch: pytest.MonkeyPatch) -> None:
        await node.create()
        reached, plain, spec = asyncio.Event(), forks.fork, node.spec()
        made: list[int] = []

        async def slow(*arguments: object) -> int:
            made.append(await plain(*arguments))  # type: ignore[arg-type]
            reached.set()
            await asyncio.sleep(0.2)
            return made[0]

        monkeypatch.setattr(forks, "fork", slow)
        creating = asyncio.create_task(node.runtime.create(spec))
        await asyncio.wait_for(reached.wait(), 30)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert not exists(made[0])
        assert spec.sandbox_id not in await node.runtime.leftovers()
