"""What came with an answer of a microVM: channels, taken as what they should be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

from cube.cubelet.runtime.guest.link import Handle, Inotify, Message, Terminal
from cube.cubelet.runtime.guest.wire import Kind, Reader, WireError, Writer
from cube.cubelet.runtime.microvm.conduits import Conduit
from cube.cubelet.runtime.microvm.frames import ChannelType
from cube.envd.files.blocking import file_error
from cube.envd.guest import Buffer, Entry, GuestFile, TerminalSize
from cube.model.errors import CubeError, SandboxNotRunning

if TYPE_CHECKING:
    from cube.cubelet.runtime.microvm.channel import PortLink

T = TypeVar("T")

#: Bytes of a file in one message.
_PIECE = 256 * 1024
_RECORDS = 64 * 1024
_RECORD = struct.Struct("<iIII")


class Ask(Protocol):
    """Sends a request and returns what ``parse`` makes of its answer, which has to be of this kind."""

    async def __call__(self, kind: Kind, body: bytes, answer: Kind, parse: Callable[[Message], T]) -> T: ...


class ChannelHandle(Handle):
    """Implements ``Handle``; ``conduit`` is ``None`` for a file."""

    def __init__(self, link: PortLink, number: int, kind: ChannelType, conduit: Conduit | None) -> None:
        self._link = link
        self.number = number
        self.kind = kind
        self._conduit = conduit
        self._taken = False

    def pipe(self) -> int:
        self._check(self.kind in (ChannelType.SOURCE, ChannelType.SINK), "a pipe")
        return self._descriptor()

    def terminal(self) -> Terminal:
        self._check(self.kind is ChannelType.TERMINAL, "a terminal")
        ask, number = self._asking(), self.number

        async def resize(size: TerminalSize) -> None:
            body = Writer().u32(number).u32(size.cols).u32(size.rows).finish()
            with contextlib.suppress(CubeError):  # the program may have ended, as on a real terminal
                await ask(Kind.RESIZE, body, Kind.OK, nothing)

        return Terminal(self._descriptor(), resize)

    def file(self, entry: Entry) -> GuestFile:
        self._check(self.kind is ChannelType.FILE, "a regular file")
        self._taken = True
        return ChannelFile(self._link, self.number, self._asking())

    def inotify(self) -> Inotify:
        self._check(self.kind is ChannelType.EVENTS, "a watch")
        return ChannelInotify(self.number, self._descriptor(), self._asking())

    def close(self) -> None:
        if not self._taken:
            self._taken = True
            if self._conduit is not None:
                self._conduit.close()
            self._link.close_channel(self.number)

    def _check(self, fits: bool, expected: str) -> None:
        if not fits or self._taken:
            raise WireError(f"an answer came with a channel of type {self.kind.name} instead of {expected}")

    def _descriptor(self) -> int:
        if self._conduit is None:
            raise WireError("a file is no stream")
        self._taken = True
        return self._conduit.take()

    def _asking(self) -> Ask:
        if self._link.ask is None:
            raise ConnectionError("nobody makes requests on this link")
        return self._link.ask


class ChannelInotify(Inotify):
    """Implements ``Inotify`` over a pipe with the records of the guest's."""

    def __init__(self, number: int, fd: int, ask: Ask) -> None:
        self.number = number
        self._fd = fd
        self._ask = ask
        self._rest = b""
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        return self._fd

    async def read(self) -> bytes:
        # The answer comes behind the records of all that was done before; a paused guest has done nothing since.
        with contextlib.suppress(SandboxNotRunning):
            await self._ask(Kind.EVENTS, Writer().u32(self.number).finish(), Kind.OK, nothing)
        if self._fd < 0:
            return b""
        try:
            self._rest += os.read(self._fd, _RECORDS)
        except BlockingIOError:
            return b""
        whole = _whole_records(self._rest)
        records, self._rest = self._rest[:whole], self._rest[whole:]
        return records

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def _whole_records(data: bytes) -> int:
    """Length of the records at the beginning that are complete."""
    at = 0
    while at + _RECORD.size <= len(data):
        end: int = at + _RECORD.size + _RECORD.unpack_from(data, at)[3]
        if end > len(data):
            # A name has 255 bytes at most: who announces more lies, and gets no further.
            return at if end - at < _RECORDS else len(data)
        at = end
    return at


class ChannelFile(GuestFile):
    """Implements ``GuestFile`` by requests to the relay in the guest, which has the descriptor."""

    def __init__(self, link: PortLink, number: int, ask: Ask) -> None:
        self._link = link
        self._number = number
        self._ask = ask

    def read_at(self, size: int, offset: int) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(self._read(size, offset))

    def write(self, data: Buffer) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._write(bytes(data)))

    def set_attributes(self, changes: Mapping[str, str | None]) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._set_attributes(changes))

    def identity(self) -> asyncio.Future[tuple[int, int]]:
        return asyncio.ensure_future(self._identity())

    def finish(self) -> asyncio.Future[None]:
        self.close()
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        closed.set_result(None)
        return closed

    def close(self) -> None:
        self._link.close_channel(self._number)

    async def _read(self, size: int, offset: int) -> bytes:
        """Several pieces at a time; what follows a short one is not there, or not any more."""
        stops = range(offset, offset + size, _PIECE)
        asked = [self._piece(min(_PIECE, offset + size - at), at) for at in stops]
        pieces = await asyncio.gather(*asked)
        content = b""
        for piece in pieces:
            content += piece
            if len(piece) < _PIECE:
                break
        return content

    async def _piece(self, size: int, offset: int) -> bytes:
        body = self._body().u64(offset).u32(size).finish()
        return await self._ask(Kind.FILE_READ, body, Kind.FILE_DATA, lambda message: _data(message, size))

    async def _write(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            body = self._body().data(data[at : at + _PIECE]).finish()
            await self._ask(Kind.FILE_WRITE, body, Kind.OK, nothing)

    async def _set_attributes(self, changes: Mapping[str, str | None]) -> None:
        for name, value in changes.items():
            body = self._body().data(name.encode()).u32(int(value is not None)).data((value or "").encode())
            await self._ask(Kind.FILE_ATTRIBUTE, body.finish(), Kind.OK, nothing)

    async def _identity(self) -> tuple[int, int]:
        return await self._ask(Kind.FILE_IDENTITY, self._body().finish(), Kind.FILE_IS, _two_numbers)

    def _body(self) -> Writer:
        return Writer().u32(self._number)


def nothing(message: Message) -> None:
    """Parse an answer that has no body."""
    Reader(message.body).end()


def _data(message: Message, most: int) -> bytes:
    reader = Reader(message.body)
    data = reader.data()
    reader.end()
    if len(data) > most:
        raise WireError("more was read than was asked for")
    return data


def _two_numbers(message: Message) -> tuple[int, int]:
    reader = Reader(message.body)
    numbers = reader.u64(), reader.u64()
    reader.end()
    return numbers


def file_failure(number: int) -> CubeError:
    """What an error number of the guest means to whoever reads or writes an open file."""
    return file_error(OSError(number, os.strerror(number)))
