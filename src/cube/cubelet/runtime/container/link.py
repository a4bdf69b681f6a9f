"""The control socket of a container's process 1, and the descriptors that come through it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections import deque
from collections.abc import Sequence

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.guest.link import Handle, Inotify, Link, Listener, Message, Terminal
from cube.cubelet.runtime.guest.wire import WireError
from cube.envd.files.descriptor import DescriptorFile
from cube.envd.guest import Entry, GuestFile, TerminalSize
from cube.envd.process.terminal import set_terminal_size
from cube.model.errors import Unavailable

#: Messages taken from one connection before the others get their turn.
_MESSAGES_AT_ONCE = 16
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
#: Requests that may wait for room in the socket.
_MAX_UNSENT = 1024
_EVENTS = 64 * 1024


class DatagramLink(Link):
    """Implements ``Link`` over a ``SOCK_SEQPACKET`` socket, which it owns."""

    max_id = 0xFFFF_FFFF
    _listener: Listener

    def __init__(self, control: socket.socket) -> None:
        self._socket = control
        self._unsent: deque[tuple[int, int, bytes, list[int]]] = deque()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        self._loop.add_reader(self._socket, self._read)

    def send(self, kind: int, request_id: int, body: bytes, attached: Sequence[Inotify] = ()) -> None:
        fds = [one.fileno() for one in attached]
        if self._closed:
            raise ConnectionError
        if self._unsent or not self._try_send(kind, request_id, body, fds):
            self._keep(kind, request_id, body, fds)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        while self._unsent:
            _close_all(self._unsent.popleft()[3])

    def _try_send(self, kind: int, request_id: int, body: bytes, fds: Sequence[int]) -> bool:
        try:
            datagrams.send(self._socket, kind, request_id, body, fds)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                raise ConnectionError from error
            raise Unavailable(f"the host cannot pass on the request: {error.strerror}; try again") from error
        return True

    def _keep(self, kind: int, request_id: int, body: bytes, fds: Sequence[int]) -> None:
        if len(self._unsent) >= _MAX_UNSENT:
            raise Unavailable("the sandbox is busy; try again")
        if not self._unsent:
            self._loop.add_writer(self._socket, self._write)
        self._unsent.append((kind, request_id, body, [os.dup(fd) for fd in fds]))

    def _write(self) -> None:
        try:
            while self._unsent and self._try_send(*self._unsent[0]):
                _close_all(self._unsent.popleft()[3])
        except ConnectionError:
            self._end(None)
            return
        except Unavailable:
            self._give_up_first()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _give_up_first(self) -> None:
        _, request_id, _, fds = self._unsent.popleft()
        _close_all(fds)
        self._listener.unsendable(request_id)

    def _read(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                datagram = datagrams.receive(self._socket)
            except BlockingIOError:
                return
            except (OSError, WireError) as error:
                self._end(error)
                return
            if datagram is None:
                self._end(None)
                return
            self._listener.deliver(_message(datagram))
            if self._closed:
                return

    def _end(self, reason: WireError | OSError | None) -> None:
        self.close()
        self._listener.lost(reason)


def _message(datagram: datagrams.Datagram) -> Message:
    handles: list[Handle] = [DescriptorHandle(fd) for fd in datagram.take_fds(len(datagram.fds))]
    return Message(datagram.kind, datagram.id, datagram.body, handles)


class DescriptorHandle(Handle):
    """Implements ``Handle`` over a descriptor of unknown origin: what it is taken for decides whether a read can block,
    and where a write ends up."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pipe(self) -> int:
        self._check(stat.S_ISFIFO(self._mode()), "a pipe")
        return self._take()

    def terminal(self) -> Terminal:
        self._check(stat.S_ISCHR(self._mode()) and os.isatty(self._fd), "a terminal")
        fd = self._take()

        async def resize(size: TerminalSize) -> None:
            set_terminal_size(fd, size)

        return Terminal(fd, resize)

    def file(self, entry: Entry) -> GuestFile:
        self._check(stat.S_ISREG(self._mode()), "a regular file")
        return DescriptorFile(self._take())

    def inotify(self) -> Inotify:
        self._check(is_inotify(self._fd), "an inotify descriptor")
        return DescriptorInotify(self._take())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._take())

    def _mode(self) -> int:
        return os.fstat(self._fd).st_mode

    def _check(self, fits: bool, expected: str) -> None:
        if not fits:
            raise WireError(f"an answer came with a descriptor that is not {expected}")

    def _take(self) -> int:
        fd, self._fd = self._fd, -1
        return fd


class DescriptorInotify(Inotify):
    """Implements ``Inotify`` over the descriptor itself, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        return self._fd

    async def read(self) -> bytes:
        try:
            return os.read(self._fd, _EVENTS)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._fd)


def is_inotify(fd: int) -> bool:
    """Whether a descriptor of unknown origin is one of inotify, which never blocks a reader that does not want it."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify"


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
