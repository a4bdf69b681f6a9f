"""One sandbox's cgroup: the same directory name in every hierarchy that the machine needs for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cube.cubelet.cgroups.detect import REQUIRED, CgroupHost
from cube.cubelet.cgroups.events import poll_until, wait_for_event
from cube.cubelet.cgroups.files import children, keyed, make_directory, read, set_value, write
from cube.cubelet.cgroups.limits import MEMORY_V1, UNLIMITED, Limit, initial, limits
from cube.model.errors import HostError, NotFound
from cube.model.resources import Resources

#: Seconds within which all processes must be frozen, dead, or their directories removable.
_FREEZE_TIME: Final = 5.0
_KILL_TIME: Final = 10.0
_REMOVE_TIME: Final = 5.0


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What the processes of a cgroup have used (CPU) and use now (the rest)."""

    cpu_seconds: float
    memory_bytes: int
    memory_cache_bytes: int
    #: Processes and threads, also those that have ended but were not waited for.
    pids: int


class Cgroup:
    """Made by :class:`~cube.cubelet.cgroups.manager.CgroupManager`. What is not ``async`` takes well under 1 ms."""

    def __init__(self, host: CgroupHost, instance: str, name: str) -> None:
        self.name = name
        self._host = host
        self._directories = {found: found.base / instance / name for found in host.hierarchies}
        self._controllers = {
            controller: (found, path) for found, path in self._directories.items() for controller in found.controllers
        }
        unified = host.unified
        self._unified = self._directories[unified] if unified is not None else None
        # What was set last, so that limits that were set ahead are not written again.
        self._resources: Resources | None = None
        self._written: dict[str, str] = {}

    def make(self) -> None:
        """Make the directories. ``HostError`` when the kernel refuses; what was made is removed again."""
        try:
            new = {path for path in self._directories.values() if make_directory(path)}
        except HostError:
            for path in self._directories.values():
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            raise
        self._written = {
            f"{path}/{file}": value
            for controller, (found, path) in self._controllers.items()
            if path in new
            for file, value in initial(controller, found.version).items()
        }

    def require(self) -> None:
        """Raise ``NotFound`` unless the cgroup is there in every hierarchy."""
        for path in self._directories.values():
            if not path.is_dir():
                raise NotFound(f"the control group {path} is gone")

    @property
    def can_be_born_in(self) -> bool:
        """Whether there is a :meth:`directory_fd`."""
        return self._unified is not None

    def directory_fd(self) -> int | None:
        """The directory in the new interface's hierarchy, to be born in; ``None`` without that hierarchy. The caller
        closes it. Moving in later takes the lock over all processes, which waits for a grace period (8 to 14 ms)."""
        if self._unified is None:
            return None
        return os.open(self._unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def procs_fds(self, *, born: bool = False) -> list[int]:
        """Descriptors to join by writing ``0``, one per hierarchy; the caller closes them.

        ``born`` leaves out the one that a process born in :meth:`directory_fd` is in already.

        Of the old interface it is the file ``tasks``: the joiner has one thread, and for one thread that moves itself
        the kernel takes no lock over all processes of the machine (measured: 0.15 ms at worst, against 8 ms).
        """
        with contextlib.ExitStack() as opened:
            found = []
            for hierarchy, path in self._directories.items():
                if born and hierarchy.version != 1:
                    continue
                file = "tasks" if hierarchy.version == 1 else "cgroup.procs"
                found.append(os.open(path / file, os.O_WRONLY | os.O_CLOEXEC))
                opened.callback(os.close, found[-1])
            opened.pop_all()
        return found

    def limit(self, resources: Resources) -> None:
        """Set CPU, memory and process limits; only values that differ from those set before are written.

        ``HostError`` when the kernel refuses, as the old interface does for less memory than is in use.
        """
        if resources == self._resources:
            return
        self._resources = None
        for controller in REQUIRED:
            hierarchy, directory = self._controllers[controller]
            wanted = limits(resources, controller, hierarchy.version)
            place = os.fspath(directory)
            differing = [limit for limit in wanted if self._written.get(f"{place}/{limit.file}") != limit.value]
            for limit in self._in_order(differing, place):
                self._set(f"{place}/{limit.file}", limit)
        self._resources = resources

    @property
    def written(self) -> dict[str, str]:
        """What is in its control files, as far as it is known."""
        return dict(self._written)

    def learn(self, resources: Resources, written: dict[str, str]) -> None:
        """Know of the limits that another process has set, and of what it has written."""
        self._resources, self._written = resources, dict(written)

    async def freeze(self) -> None:
        """Stop all processes; returns when none runs any more. ``HostError`` when one cannot be stopped in time."""
        self._write_freeze(frozen=True)
        if not await self._frozen(_FREEZE_TIME):
            self._write_freeze(frozen=False)
            raise HostError(f"the processes of {self.name} could not be frozen within {_FREEZE_TIME:g} seconds")

    async def thaw(self) -> None:
        """Let all processes run again; they may already do so when this returns."""
        self._write_freeze(frozen=False)

    async def kill(self) -> None:
        """Kill every process, frozen ones and fork bombs too; returns when none is left.

        ``HostError`` when some are still there after ten seconds, which only a process stuck in the kernel can do.
        """
        if self._unified is not None and self._host.can_kill:
            killed = await self._kill_at_once(self._unified)
        else:
            killed = await self._kill_one_by_one()
        if not killed:
            raise HostError(f"{len(self.pids())} processes of {self.name} survive SIGKILL: they hang in the kernel")

    def pids(self) -> list[int]:
        """Host process ids of all processes; empty when there is no such cgroup."""
        directory = self._unified or next(iter(self._directories.values()))
        try:
            return [int(line) for line in read(directory / "cgroup.procs").split() if line != "0"]
        except OSError:
            return []

    def usage(self) -> CgroupUsage:
        """Counters of now. ``NotFound`` when the cgroup is gone."""
        with self._gone_is_not_found():
            return CgroupUsage(self._cpu_seconds(), *self._memory(), self._number("pids", "pids.current"))

    def dirty_bytes(self) -> int:
        """Bytes of files that its processes have written and the disk has not. ``NotFound`` when the cgroup is gone."""
        hierarchy, directory = self._controllers["memory"]
        with self._gone_is_not_found():
            counters = keyed(read(directory / "memory.stat"))
        return counters.get("total_dirty" if hierarchy.version == 1 else "file_dirty", 0)

    def oom_kills(self) -> int:
        """How many processes the OOM killer has ended here; 0 where that is not counted (v1 before Linux 4.13).

        ``NotFound`` when the cgroup is gone.
        """
        hierarchy, directory = self._controllers["memory"]
        file = "memory.oom_control" if hierarchy.version == 1 else "memory.events"
        with self._gone_is_not_found():
            return keyed(read(directory / file)).get("oom_kill", 0)

    async def remove(self) -> None:
        """Remove the directories, with cgroups that were made below; succeeds when there are none.

        ``HostError`` when processes are left in them.
        """
        left = list(self._directories.values())
        if not await poll_until(lambda: not _remove_trees(left), _REMOVE_TIME):
            raise HostError(f"the control group {left[0]} cannot be removed: processes are left in it")
        self._resources = None
        self._written.clear()

    @contextlib.contextmanager
    def _gone_is_not_found(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NotFound(f"the control group {self.name} is gone: {error.strerror}") from error

    def _in_order(self, wanted: list[Limit], place: str) -> list[Limit]:
        """The old interface keeps memory+swap at or above memory at every moment: when limits grow, it is written
        first."""
        for limit in wanted:
            if limit.file == MEMORY_V1 and self._grows(f"{place}/{limit.file}", limit.value):
                return sorted(wanted, key=lambda item: "memsw" not in item.file)
        return wanted

    def _grows(self, path: str, wanted: str) -> bool:
        now = self._written.get(path) or read(path)
        return now != UNLIMITED and int(wanted) > int(now)

    def _set(self, path: str, limit: Limit) -> None:
        try:
            set_value(path, limit.value)
        except HostError as error:
            if not (limit.optional and isinstance(error.__cause__, FileNotFoundError)):
                raise
            return
        self._written[path] = limit.value

    def _write_freeze(self, *, frozen: bool) -> None:
        if self._unified is not None and self._host.can_freeze:
            set_value(self._unified / "cgroup.freeze", "1" if frozen else "0")
        else:
            set_value(self._freezer(), "FROZEN" if frozen else "THAWED")

    async def _frozen(self, seconds: float) -> bool:
        if self._unified is not None and self._host.can_freeze:
            return await wait_for_event(self._unified / "cgroup.events", "frozen", 1, seconds)
        state = self._freezer()
        return await poll_until(lambda: read(state).strip() == "FROZEN", seconds)

    def _freezer(self) -> Path:
        if "freezer" not in self._controllers:
            raise HostError("this kernel cannot freeze processes: it has neither the v1 freezer nor Linux 5.2")
        return self._controllers["freezer"][1] / "freezer.state"

    async def _kill_at_once(self, directory: Path) -> bool:
        try:
            write(directory / "cgroup.kill", "1")
        except FileNotFoundError:
            return True
        return await wait_for_event(directory / "cgroup.events", "populated", 0, _KILL_TIME)

    async def _kill_one_by_one(self) -> bool:
        deadline = asyncio.get_running_loop().time() + _KILL_TIME
        while self.pids() and asyncio.get_running_loop().time() < deadline:
            await self._kill_frozen()
            await poll_until(lambda: not self.pids(), 0.1)
        return not self.pids()

    async def _kill_frozen(self) -> None:
        """One round: what is frozen cannot fork, so the list is complete; the signal acts when it thaws."""
        with contextlib.suppress(HostError):
            self._write_freeze(frozen=True)
            await self._frozen(1.0)
        try:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            with contextlib.suppress(HostError):
                self._write_freeze(frozen=False)

    def _cpu_seconds(self) -> float:
        if self._unified is not None:
            return keyed(read(self._unified / "cpu.stat")).get("usage_usec", 0) / 1e6
        return self._number("cpuacct", "cpuacct.usage") / 1e9

    def _memory(self) -> tuple[int, int]:
        hierarchy, directory = self._controllers["memory"]
        old = hierarchy.version == 1
        cache = keyed(read(directory / "memory.stat")).get("total_cache" if old else "file", 0)
        return self._number("memory", "memory.usage_in_bytes" if old else "memory.current"), cache

    def _number(self, controller: str, file: str) -> int:
        found = self._controllers.get(controller)
        return int(read(found[1] / file)) if found is not None else 0


def _remove_trees(paths: list[Path]) -> list[Path]:
    """Remove what can be removed, deepest first; takes it off the list and returns what is left."""
    paths[:] = [path for path in paths if not _remove_tree(path)]
    return paths


def _remove_tree(path: Path) -> bool:
    with contextlib.suppress(OSError):  # nearly always it has no cgroups below
        os.rmdir(path)
        return True
    for directory in _deepest_first(path):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _deepest_first(path: Path) -> Iterator[Path]:
    for name in children(path):
        yield from _deepest_first(path / name)
    yield path
