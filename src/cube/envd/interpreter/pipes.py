"""Pipes to and from a sandbox, on the event loop, with bounds on everything that the other end decides."""

from __future__ import annotations

import asyncio
import contextlib
import os

#: Read at once, in bytes.
BLOCK = 256 * 1024

_MAX_WORDS = 16 * 1024


class LineTooLong(Exception):
    """The peer sent more bytes than allowed without ending the line."""


class LineSplitter:
    """Cuts a byte stream into lines; holds at most ``limit`` bytes of an unfinished one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends. Raises :class:`LineTooLong`."""
        head, *rest = data.split(b"\n")
        self._unfinished += head
        if len(self._unfinished) > self._limit:
            raise LineTooLong
        if not rest:
            return []
        lines = [bytes(self._unfinished), *rest[:-1]]
        self._unfinished = bytearray(rest[-1])
        return lines


class _Pipe:
    """A descriptor that does not block, with at most one task waiting for it."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._waiting: asyncio.Future[None] | None = None
        os.set_blocking(descriptor, False)

    def close(self) -> None:
        """Close the descriptor; who waits for it gets ``BrokenPipeError``."""
        if self._waiting is not None:
            self._stop_waiting()
            _fail(self._waiting)
        os.close(self._fd)
        self._fd = -1

    def _check_open(self) -> None:
        if self._fd < 0:
            raise BrokenPipeError

    async def _wait(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self._start_waiting(waiting)
        try:
            await waiting
        finally:
            if self._fd >= 0:
                self._stop_waiting()
            self._waiting = None

    def _start_waiting(self, waiting: asyncio.Future[None]) -> None:
        raise NotImplementedError

    def _stop_waiting(self) -> None:
        raise NotImplementedError


class LineReader(_Pipe):
    """Lines from the read end of a pipe."""

    def __init__(self, descriptor: int, limit: int) -> None:
        super().__init__(descriptor)
        self._splitter = LineSplitter(limit)

    async def read(self) -> list[bytes] | None:
        """At least one line, as many as are there; ``None`` at the end of file. Cancelling it loses nothing.

        Raises :class:`LineTooLong`, and ``BrokenPipeError`` after :meth:`close`.
        """
        while True:
            self._check_open()
            try:
                data = os.read(self._fd, BLOCK)
            except BlockingIOError:
                await self._wait()
                continue
            if not data:
                return None
            if lines := self._splitter.feed(data):
                return lines

    def _start_waiting(self, waiting: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().add_reader(self._fd, _settle, waiting)

    def _stop_waiting(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)


class Writer(_Pipe):
    """The write end of a pipe; one write at a time, in order."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._turn = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write everything, waiting while the pipe is full. Raises ``BrokenPipeError``."""
        async with self._turn:
            view = memoryview(data)
            while view:
                self._check_open()
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._wait()

    def _start_waiting(self, waiting: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().add_writer(self._fd, _settle, waiting)

    def _stop_waiting(self) -> None:
        asyncio.get_running_loop().remove_writer(self._fd)


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _fail(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_exception(BrokenPipeError())


def last_words(stderr: int | None) -> str:
    """The last line that a program has written to its stderr before it ended, shortened; empty when there is none."""
    if stderr is None:
        return ""
    os.set_blocking(stderr, False)
    with contextlib.suppress(BlockingIOError):
        lines = os.read(stderr, _MAX_WORDS).decode("utf-8", "replace").split("\n")
        return next((line[:500] for line in reversed(lines) if line.strip()), "")
    return ""


def close_quietly(descriptor: int | None) -> None:
    """Close a descriptor, if it is one."""
    if descriptor is not None:
        os.close(descriptor)
