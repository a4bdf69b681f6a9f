"""On the real cgroups of this machine, in the three ways that it can be used."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cube.cubelet.cgroups import Cgroup, CgroupHost, CgroupManager
from cube.cubelet.cgroups.events import poll_until
from cube.model.errors import HostError, NotFound
from cube.model.resources import Resources
from cube.settings import Settings
from support.descriptors import open_fds

pytestmark = pytest.mark.root

#: Starts Python code inside of a cgroup; a fixture.
Start = Callable[[Cgroup, str], subprocess.Popen[bytes]]

ALLOCATE = "b = bytearray({mib} << 20); print('all of it')"
#: Writes to every page, says so, and stays.
HOLD = "import time\nb = bytearray(b'1' * ({mib} << 20))\nprint(1, flush=True)\ntime.sleep(60)"
SLEEP = "import time; time.sleep(60)"
OPEN_DEVICES = """
import os
open('/dev/null').close()
try: os.open('/dev/kmsg', os.O_RDONLY)
except PermissionError: print('closed')
"""
#: Counts on stdout, one line every millisecond or so of running.
COUNT = "import sys, time\nwhile True:\n  sys.stdout.write('.'); sys.stdout.flush(); time.sleep(0.001)"
BURN = "import os, time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
FORK_BOMB = """
import os, time
print('go', flush=True)
while True:
  try: os.fork()
  except OSError: pass
"""


async def exit_of(child: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    output, _ = await asyncio.to_thread(child.communicate, timeout=20)
    return child.returncode, output


async def test_memory_limit_kills_inside_and_nowhere_else(group: Cgroup, start: Start) -> None:
    group.limit(Resources(memory_mb=32))
    assert await exit_of(start(group, ALLOCATE.format(mib=8))) == (0, b"all of it\n")
    assert group.oom_kills() == 0
    assert await exit_of(start(group, ALLOCATE.format(mib=256))) == (-signal.SIGKILL, b"")
    assert group.oom_kills() == 1


async def test_limits_of_a_running_sandbox_can_grow_and_shrink(
    manager: CgroupManager, group: Cgroup, start: Start
) -> None:
    for mib in (64, 2048, 128, 4096):
        group.limit(Resources(memory_mb=mib))
    adopted = manager.adopt("sandbox")
    adopted.limit(Resources(memory_mb=8192))
    adopted.limit(Resources(memory_mb=32))
    assert (await exit_of(start(group, ALLOCATE.format(mib=64))))[0] == -signal.SIGKILL


async def test_less_memory_than_in_use_is_refused(host: CgroupHost, group: Cgroup, start: Start) -> None:
    memory = host.hierarchy("memory")
    if memory is None or memory.version == 2:
        pytest.skip("the new interface does not refuse, it kills")
    group.limit(Resources(memory_mb=256))
    child = start(group, HOLD.format(mib=64))
    assert child.stdout is not None
    await asyncio.to_thread(child.stdout.readline)
    with pytest.raises(HostError, match=r"memory\.limit_in_bytes"):
        group.limit(Resources(memory_mb=16))
    assert child.poll() is None


async def test_pids_limit_holds_a_fork_bomb_and_kill_ends_it(group: Cgroup, start: Start) -> None:
    group.limit(Resources(pids=50, cpu_count=1))
    child = start(group, FORK_BOMB)
    assert child.stdout is not None
    await asyncio.to_thread(child.stdout.readline)
    assert await poll_until(lambda: group.usage().pids == 50, 20)
    assert len(group.pids()) <= 50
    await group.kill()
    assert group.pids() == []
    assert await asyncio.to_thread(child.wait, 5) == -signal.SIGKILL


async def test_cpu_quota_holds_roughly(group: Cgroup, start: Start, host: CgroupHost) -> None:
    group.limit(Resources(cpu_count=1))
    children = [start(group, BURN) for _ in range(4)]
    began, before = time.monotonic(), group.usage().cpu_seconds
    for child in children:
        await exit_of(child)
    used, passed = group.usage().cpu_seconds - before, time.monotonic() - began
    assert 0.05 < used < 1.4 * passed + 0.1


async def test_frozen_processes_stand_still_and_go_on(group: Cgroup, start: Start) -> None:
    child = start(group, COUNT)
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)

    output = child.stdout
    assert await poll_until(lambda: bool(output.read()), 10)
    await group.freeze()
    output.read()
    assert not await poll_until(lambda: bool(output.read()), 0.05)
    await group.thaw()
    assert await poll_until(lambda: bool(output.read()), 10)


async def test_kill_ends_frozen_processes(group: Cgroup, start: Start) -> None:
    child = start(group, SLEEP)
    await group.freeze()
    await group.kill()
    assert await asyncio.to_thread(child.wait, 5) == -signal.SIGKILL
    assert group.pids() == []


async def test_kill_and_remove_of_nothing_succeed(group: Cgroup) -> None:
    await group.kill()
    await group.remove()
    await group.kill()
    await group.remove()
    with pytest.raises(NotFound):
        group.usage()


async def test_remove_refuses_while_processes_are_left(
    group: Cgroup, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cube.cubelet.cgroups.group._REMOVE_TIME", 0.02)
    child = start(group, SLEEP)
    with pytest.raises(HostError, match="processes are left"):
        await group.remove()
    assert child.poll() is None


async def test_cancelled_freeze_can_be_undone(group: Cgroup, start: Start) -> None:
    child = start(group, COUNT)
    freezing = asyncio.create_task(group.freeze())
    await asyncio.sleep(0)
    freezing.cancel()
    await asyncio.gather(freezing, return_exceptions=True)
    await group.thaw()
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.read, 1) == b"."


async def test_only_harmless_devices_can_be_opened(host: CgroupHost, group: Cgroup, start: Start) -> None:
    if host.hierarchy("devices") is None:
        pytest.skip("no v1 device controller")
    assert await exit_of(start(group, OPEN_DEVICES)) == (0, b"closed\n")


async def test_usage_counts(group: Cgroup, start: Start) -> None:
    child = start(group, HOLD.format(mib=32))
    assert child.stdout is not None
    await asyncio.to_thread(child.stdout.readline)
    usage = group.usage()
    assert usage.pids == 1
    assert usage.cpu_seconds > 0
    assert usage.memory_bytes > 30 << 20


async def test_another_run_of_the_service_adopts(
    manager: CgroupManager, group: Cgroup, start: Start, host: CgroupHost, settings: Settings
) -> None:
    child = start(group, SLEEP)
    again = CgroupManager(settings, host)
    again.prepare()
    assert again.names() == {"sandbox"}
    adopted = again.adopt("sandbox")
    assert adopted.pids() == [child.pid]
    await adopted.freeze()
    await adopted.thaw()
    with pytest.raises(NotFound):
        again.adopt("other")


async def test_close_leaves_nothing(
    manager: CgroupManager, start: Start, cgroups_of: Callable[[], list[str]], host: CgroupHost
) -> None:
    descriptors = open_fds()
    children = [start(manager.create(name), SLEEP) for name in ("one", "two")]
    assert len(cgroups_of()) == len(host.hierarchies)
    await manager.close(remove=True)
    assert cgroups_of() == []
    assert [await asyncio.to_thread(child.wait, 5) for child in children] == [-signal.SIGKILL] * 2
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    assert open_fds() == descriptors


async def test_destroy_takes_what_is_only_partly_there(manager: CgroupManager, group: Cgroup, host: CgroupHost) -> None:
    for descriptor in group.procs_fds():
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent
        os.close(descriptor)
    path.rmdir()
    assert manager.names() == {"sandbox"}
    await manager.destroy("sandbox")
    assert manager.names() == set()
