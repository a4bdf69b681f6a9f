"""A guest that runs things directly on this host, in a temporary directory: for tests of envd only.

All its users are the one who runs the tests, and share one home directory. Paths are real paths of the host; nothing
is isolated.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import pty
import shutil
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cube.envd.errors import UnknownUser
from cube.envd.files.descriptor import DescriptorFile
from cube.envd.guest import (
    Entry,
    EventType,
    ExitStatus,
    FileType,
    OpenedFile,
    SpawnRequest,
    TerminalSize,
    WatchEvent,
)
from cube.envd.process.terminal import set_terminal_size
from cube.model.errors import Conflict, CubeError, HostError, InvalidInput, NotFound, PermissionDenied, StorageFull

_USERS = ("", "root", "user", "0")
_ERRORS: dict[int, type[CubeError]] = {
    errno.ENOENT: NotFound,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EEXIST: Conflict,
    errno.ELOOP: Conflict,
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _ERRORS.get(error.errno or 0, InvalidInput)(str(error)) from error


@dataclass
class LocalProcess:
    """A child of this process."""

    popen: subprocess.Popen[bytes]
    stdin: int | None
    stdout: int | None
    stderr: int | None
    terminal: int | None
    _exit: asyncio.Future[ExitStatus] = field(init=False)

    def __post_init__(self) -> None:
        self.pid = self.popen.pid
        loop = asyncio.get_running_loop()
        self._exit = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self.popen.wait()
        self._exit.set_result(ExitStatus(code) if code >= 0 else ExitStatus(None, -code))

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._exit)

    async def signal(self, number: int) -> None:
        if self._exit.done():
            raise NotFound("the process has ended")
        self.popen.send_signal(number)

    async def resize(self, size: TerminalSize) -> None:
        if self.terminal is not None:
            set_terminal_size(self.terminal, size)


class LocalGuest:
    """``cube.envd.guest.Guest`` on the host's own file system and processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: list[LocalProcess] = []
        self.watches: list[LocalWatch] = []

    async def ping(self) -> None:
        return

    async def spawn(self, request: SpawnRequest) -> LocalProcess:
        cwd = self._path(request.cwd, request.user)
        with _translated():
            if not cwd.is_dir():
                raise InvalidInput(f"cwd '{request.cwd}' does not exist", field="cwd")
            process = self._popen(request, cwd)
        self.processes.append(process)
        return process

    def _popen(self, request: SpawnRequest, cwd: Path) -> LocalProcess:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "USER": request.user, "LOGNAME": request.user}
        env |= {"SHELL": "/bin/bash", **request.env}
        if request.terminal is not None:
            master, slave = pty.openpty()
            set_terminal_size(master, request.terminal)
            try:
                popen = subprocess.Popen(
                    request.argv,
                    cwd=cwd,
                    env=env,
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    start_new_session=True,
                    preexec_fn=_take_terminal,
                )
            finally:
                os.close(slave)
            return LocalProcess(popen, None, None, None, master)
        popen = subprocess.Popen(
            request.argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE if request.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pipes = [None if pipe is None else os.dup(pipe.fileno()) for pipe in (popen.stdin, popen.stdout, popen.stderr)]
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                pipe.close()
        return LocalProcess(popen, *pipes, None)

    async def open_read(self, path: str, user: str) -> OpenedFile:
        target = self._path(path, user)
        with _translated():
            fd = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self._opened(fd, target)

    async def open_write(self, path: str, user: str, *, mode: int = 0o666) -> OpenedFile:
        target = self._path(path, user)
        with _translated():
            target.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, mode)
            os.fchown(fd, os.getuid(), os.getgid())
        return self._opened(fd, target)

    def _opened(self, fd: int, target: Path) -> OpenedFile:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidInput(f"path '{target}' is not a regular file")
        return OpenedFile(DescriptorFile(fd), self._entry(target))

    async def stat(self, path: str, user: str) -> Entry:
        with _translated():
            return self._entry(self._path(path, user))

    async def list_dir(self, path: str, user: str, depth: int) -> list[Entry]:
        with _translated():
            return list(self._walk(self._path(path, user), depth))

    def _walk(self, directory: Path, depth: int) -> Iterator[Entry]:
        for name in sorted(os.listdir(directory)):
            entry = self._entry(directory / name)
            yield entry
            if depth > 1 and stat.S_ISDIR(entry.link_mode):
                yield from self._walk(directory / name, depth - 1)

    async def make_dir(self, path: str, user: str) -> Entry:
        target = self._path(path, user)
        if target.is_file():
            raise InvalidInput(f"path '{target}' is a file")
        with _translated():
            target.mkdir(parents=True)
        return self._entry(target)

    async def move(self, source: str, destination: str, user: str) -> Entry:
        target = self._path(destination, user)
        with _translated():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._path(source, user).rename(target)
        return self._entry(target)

    async def remove(self, path: str, user: str) -> None:
        target = self._path(path, user)
        with _translated():
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    async def watch(self, path: str, user: str, *, recursive: bool) -> LocalWatch:
        target = self._path(path, user)
        with _translated():
            if not stat.S_ISDIR(target.stat().st_mode):
                raise InvalidInput(f"path '{target}' is not a directory")
            watch = LocalWatch(target, recursive=recursive)
        self.watches.append(watch)
        return watch

    def kill_all(self) -> None:
        """End what still runs."""
        for process in self.processes:
            if process.popen.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _path(self, path: str, user: str) -> Path:
        if user not in _USERS:
            raise UnknownUser(user)
        if path == "~" or path.startswith("~/"):
            path = path[2:]
        return self.home / path

    def _entry(self, path: Path) -> Entry:
        link = path.lstat()
        status = path.stat() if path.exists() else link
        kind = FileType.UNSPECIFIED
        for predicate, candidate in _TYPES:
            if predicate(status.st_mode):
                kind = candidate
        attributes = [name for name in os.listxattr(path) if name.startswith("user.e2b.")] if path.exists() else []
        return Entry(
            path=str(path),
            type=kind,
            mode=status.st_mode,
            link_mode=link.st_mode,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            uid=status.st_uid,
            gid=status.st_gid,
            owner=path.owner() if path.exists() else "root",
            group=path.group() if path.exists() else "root",
            target=str(path.resolve()) if stat.S_ISLNK(link.st_mode) else "",
            metadata={name.removeprefix("user.e2b."): os.getxattr(path, name).decode() for name in attributes},
        )


_TYPES = (
    (stat.S_ISREG, FileType.FILE),
    (stat.S_ISDIR, FileType.DIRECTORY),
    (stat.S_ISLNK, FileType.SYMLINK),
)


def _take_terminal() -> None:
    import fcntl
    import termios

    # A shell that starts the tests in the background has them ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


_libc = ctypes.CDLL(None, use_errno=True)
_EVENTS = {
    0x002: EventType.WRITE,  # IN_MODIFY
    0x004: EventType.CHMOD,  # IN_ATTRIB
    0x040: EventType.RENAME,  # IN_MOVED_FROM
    0x080: EventType.CREATE,  # IN_MOVED_TO
    0x100: EventType.CREATE,  # IN_CREATE
    0x200: EventType.REMOVE,  # IN_DELETE
}
_IN_IGNORED = 0x8000
_IN_ISDIR = 0x40000000


class LocalWatch:
    """inotify through libc."""

    def __init__(self, directory: Path, *, recursive: bool) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise HostError(os.strerror(ctypes.get_errno()))
        self._names: dict[int, str] = {}
        self._root = directory
        self._recursive = recursive
        self.closed = False
        self._add("")

    def _add(self, name: str) -> None:
        path = self._root / name
        number = _libc.inotify_add_watch(self._fd, os.fsencode(path), sum(_EVENTS))
        if number >= 0:
            self._names[number] = name
            if self._recursive:
                for child in sorted(path.iterdir()):
                    if child.is_dir() and not child.is_symlink():
                        self._add(str(child.relative_to(self._root)))

    def fileno(self) -> int:
        return self._fd

    async def read(self) -> list[WatchEvent]:
        events: list[WatchEvent] = []
        while not self.closed:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                break
            events.extend(self._parse(data))
        return events

    def _parse(self, data: bytes) -> Iterator[WatchEvent]:
        offset = 0
        while offset < len(data):
            number, mask, _, length = struct.unpack_from("iIII", data, offset)
            raw = data[offset + 16 : offset + 16 + length].rstrip(b"\0")
            offset += 16 + length
            if mask & _IN_IGNORED or not raw:
                continue
            name = os.path.join(self._names[number], os.fsdecode(raw))
            if self._recursive and mask & _IN_ISDIR and mask & 0x180:
                self._add(name)
            yield WatchEvent(name, _EVENTS[mask & sum(_EVENTS)])

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)
