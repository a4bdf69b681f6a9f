"""A container runtime for tests that attack it, and a sandbox as an attacker sees it: commands, and what comes back."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from cube.cubelet.runtime.container.guest import ContainerGuest
from cube.cubelet.runtime.container.instance import ContainerInstance
from cube.cubelet.runtime.container.record import Records
from cube.cubelet.runtime.container.runtime import ContainerRuntime
from cube.cubelet.runtime.container.seccomp.numbers import ARCHITECTURES
from cube.cubelet.storage.images import ImageStore
from cube.envd.guest import ExitStatus, GuestProcess, SpawnRequest, TerminalSize
from cube.model.errors import CubeError, NotFound
from cube.model.ids import new_sandbox_id
from cube.model.mounts import VolumeMount
from cube.model.network import NetworkConfig
from cube.model.resources import Resources
from cube.model.sandbox import SandboxSpec
from cube.settings import Settings

T = TypeVar("T")

#: Where the attack tools lie inside.
TOOLS = "/opt/attack"
_PROBE = Path(__file__).with_name("probe.py")
_PREAMBLE = f"import sys\nsys.path.insert(0, {TOOLS!r})\nfrom probe import *\n"
#: Enough for every attack but the exhausting ones, and small enough to have many.
SMALL = Resources(cpu_count=1, memory_mb=512, disk_mb=256, pids=256, open_files=4096)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command inside ended."""

    #: Exit code; minus the signal when one ended it.
    exit: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.exit == 0


class Ground:
    """One runtime on an event loop of its own, so that tests may block, and attack from several threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images = ImageStore(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.runtime: ContainerRuntime

    def start(self) -> None:
        self.images.load()
        self.runtime = ContainerRuntime(self.settings, self.images)
        self._thread.start()
        self.call(self.runtime.start())

    def stop(self) -> None:
        """End everything; nothing of this instance is left on the machine."""
        self.call(self.runtime.remove())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Carry out something on the runtime's loop; raises ``TimeoutError``, with the work cancelled."""

        async def limited() -> T:
            async with asyncio.timeout(seconds):
                return await work

        return asyncio.run_coroutine_threadsafe(limited(), self._loop).result()

    @contextmanager
    def sandbox(
        self,
        template: str = "base",
        resources: Resources = SMALL,
        volumes: tuple[VolumeMount, ...] = (),
        network: NetworkConfig | None = None,
    ) -> Iterator[Box]:
        """A sandbox that is ended at the end of the block. Without a word about its network the internet is open."""
        spec = SandboxSpec(
            new_sandbox_id(),
            self.images.get(template),
            resources,
            volume_mounts=volumes,
            network=network or NetworkConfig(),
        )
        try:
            yield Box(self, self.call(self.runtime.create(spec)), spec)
        finally:
            self.call(self.runtime.destroy(spec.sandbox_id))


class Box:
    """One sandbox."""

    def __init__(self, ground: Ground, instance: ContainerInstance, spec: SandboxSpec) -> None:
        self.ground = ground
        self.instance = instance
        self.spec = spec
        self.resources = spec.resources
        self._armed = False

    @property
    def guest(self) -> ContainerGuest:
        return self.instance.guest

    @property
    def address(self) -> str:
        return self.instance.address

    @property
    def gateway(self) -> str:
        return str(self.instance.seat.link.gateway)

    @property
    def pid(self) -> int:
        """Host's number of process 1."""
        record = Records(self.ground.settings.run_dir / "sandboxes").read(self.instance.sandbox_id)
        assert record is not None
        return record.pid

    def call(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """A request to the guest, waited for."""
        return self.ground.call(work, seconds)

    def answer(self, work: Coroutine[Any, Any, object], seconds: float = 5) -> object:
        """What a request gives: a result, or the error that its client is told. Raises those that are our own fault."""
        try:
            return self.call(work, seconds)
        except CubeError as error:
            if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            return error

    def run(self, *command: str, user: str = "root", cwd: str = "/", seconds: float = 30, **more: Any) -> Result:
        """Run a program to its end; one word alone is a script for bash."""
        argv = command if len(command) > 1 else ("/bin/bash", "-c", *command)
        return self.call(self._run(SpawnRequest(argv, user, cwd=cwd, **more)), seconds)

    async def _run(self, request: SpawnRequest) -> Result:
        process = await self.guest.spawn(request)
        try:
            return await self._follow(process)
        finally:
            release(process)

    async def _follow(self, process: GuestProcess) -> Result:
        channels = [process.stdout, process.stderr] if process.terminal is None else [process.terminal]
        texts = await asyncio.gather(*(asyncio.to_thread(read_to_end, fd) for fd in channels))
        status = await process.wait()
        return Result(_code(status), texts[0], texts[1] if len(texts) > 1 else "")

    def shell(self, script: str, user: str = "root") -> str:
        """Output of a script that succeeds, without the last line's end."""
        done = self.run(script, user=user)
        assert done.ok, done
        return done.stdout.rstrip("\n")

    def probe(self, script: str, user: str = "root", *arguments: object, seconds: float = 30, **more: Any) -> Any:
        """Run Python inside with what ``probe.py`` offers; returns what the script told."""
        self.arm()
        argv = ("/usr/bin/python3", "-SE", "-c", _PREAMBLE + script, *map(str, arguments))
        done = self.run(*argv, user=user, seconds=seconds, **more)
        assert done.ok, done
        return json.loads(done.stdout.splitlines()[-1])

    def arm(self) -> None:
        """Bring the tools inside."""
        if not self._armed:
            self.write(f"{TOOLS}/probe.py", _PROBE.read_bytes(), mode=0o644)
            self.write(f"{TOOLS}/numbers.json", json.dumps(ARCHITECTURES[platform.machine()][1]).encode(), mode=0o644)
            self._armed = True

    def write(self, path: str, content: bytes, user: str = "root", mode: int = 0o755) -> None:
        self.call(self._write(path, content, user, mode))

    async def _write(self, path: str, content: bytes, user: str, mode: int) -> None:
        file = (await self.guest.open_write(path, user, mode=mode)).file
        try:
            await file.write(content)
        finally:
            file.close()

    def read(self, path: str, user: str = "root") -> bytes:
        return self.call(self._read(path, user))

    async def _read(self, path: str, user: str) -> bytes:
        file = (await self.guest.open_read(path, user)).file
        try:
            return await file.read_at(1 << 20, 0)
        finally:
            file.close()

    @contextmanager
    def background(self, script: str, user: str = "root") -> Iterator[Running]:
        """Python that runs inside during the block, which begins when it tells something."""
        self.arm()
        argv = ("/usr/bin/python3", "-SE", "-u", "-c", _PREAMBLE + script)
        process = self.call(self.guest.spawn(SpawnRequest(argv, user, cwd="/", stdin=True)))
        try:
            yield Running(process)
        finally:
            self._end(process)

    def _end(self, process: GuestProcess) -> None:
        with suppress(NotFound):  # it has ended by itself
            self.call(process.signal(signal.SIGKILL))
        self.call(process.wait())
        release(process)

    @contextmanager
    def terminal(self, *argv: str, user: str = "user") -> Iterator[GuestProcess]:
        """A program on a terminal of its own."""
        request = SpawnRequest(argv, user, cwd="/", terminal=TerminalSize(80, 24))
        process = self.call(self.guest.spawn(request))
        try:
            yield process
        finally:
            self._end(process)


class Running:
    """A script of :meth:`Box.background`. ``said`` is what it told first."""

    def __init__(self, process: GuestProcess) -> None:
        self.pid = process.pid
        self._process = process
        self.said = self._line()

    def ask(self) -> Any:
        """Let it go on after ``sys.stdin.readline()``; returns what it tells then."""
        assert self._process.stdin is not None
        os.write(self._process.stdin, b"\n")
        return json.loads(self._line())

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            chunk = os.read(self._process.stdout, 4096)
            assert chunk, read_to_end(self._process.stderr)
            line += chunk
        return line


def release(process: GuestProcess) -> None:
    """Close what belongs to a process."""
    for fd in (process.stdin, process.stdout, process.stderr, process.terminal):
        if fd is not None:
            os.close(fd)


def read_to_end(fd: int | None) -> str:
    """Everything until the writers are gone, from a pipe or a terminal; at most 4 MiB are kept."""
    assert fd is not None
    parts: list[bytes] = []
    try:
        while part := os.read(fd, 65536):
            if len(parts) < 64:
                parts.append(part)
    except OSError:  # EIO: the terminal has no program any more
        pass
    return b"".join(parts).decode(errors="replace")


def _code(status: ExitStatus) -> int:
    return -(status.signal or 0) if status.code is None else status.code
