"""Requests about files of a sandbox, and the entries that come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from cube.cubelet.runtime.guest.control import REQUEST_SECONDS, ControlConnection, RequestFailed
from cube.cubelet.runtime.guest.failures import error_of
from cube.cubelet.runtime.guest.link import Inotify, Message
from cube.cubelet.runtime.guest.text import encode, shown
from cube.cubelet.runtime.guest.wire import Kind, Reader, WireError, Writer
from cube.envd.guest import Entry, FileType, OpenedFile
from cube.model.errors import LimitExceeded

#: Seconds that a request about a whole tree may take.
TREE_SECONDS = 300.0
#: A listing ends with ``LimitExceeded`` beyond either.
MAX_ENTRIES = 200_000
MAX_LISTING_BYTES = 64 * 1024 * 1024

#: Bytes of an entry whose texts and metadata are all empty.
_MIN_ENTRY = 60
_READ, _CREATE = 0, 1


async def ask(
    connection: ControlConnection,
    kind: Kind,
    path: str,
    user: str,
    rest: bytes = b"",
    *,
    seconds: float = REQUEST_SECONDS,
) -> Message:
    """Send a request about a path and return its answer; the caller owns its handles."""
    try:
        return await connection.request(kind, _body(path, user, rest), seconds=seconds)
    except RequestFailed as error:
        raise error_of(error.failure, user=user, path=path) from None


async def ask_for_many(
    connection: ControlConnection, kind: Kind, path: str, user: str, rest: bytes, *, attached: Sequence[Inotify] = ()
) -> AsyncGenerator[Message, None]:
    """Like :func:`ask` where the answer comes in several messages, each beginning with ``more``."""
    stream = connection.stream(kind, _body(path, user, rest), attached=attached, seconds=TREE_SECONDS)
    try:
        async with contextlib.aclosing(stream) as messages:
            async for message in messages:
                more = int.from_bytes(message.body[:4], "little")
                yield message
                if not more:
                    return
                await asyncio.sleep(0)  # a long listing is taken apart between the requests of others
    except RequestFailed as error:
        raise error_of(error.failure, user=user, path=path) from None


async def open_file(connection: ControlConnection, path: str, user: str, *, create: bool, mode: int = 0) -> OpenedFile:
    rest = Writer().u32(_CREATE if create else _READ).u32(mode & 0o7777).finish()
    return connection.decode(await ask(connection, Kind.OPEN, path, user, rest), Kind.ENTRY, _opened_file)


async def stat_path(connection: ControlConnection, path: str, user: str) -> Entry:
    return connection.decode(await ask(connection, Kind.STAT, path, user), Kind.ENTRY, _one_entry)


async def make_dir(connection: ControlConnection, path: str, user: str) -> Entry:
    return connection.decode(await ask(connection, Kind.MAKE_DIR, path, user), Kind.ENTRY, _one_entry)


async def move(connection: ControlConnection, source: str, destination: str, user: str) -> Entry:
    rest = Writer().data(encode(destination, "destination")).finish()
    answer = await ask(connection, Kind.MOVE, source, user, rest, seconds=TREE_SECONDS)
    return connection.decode(answer, Kind.ENTRY, _one_entry)


async def remove(connection: ControlConnection, path: str, user: str) -> None:
    answer = await ask(connection, Kind.REMOVE, path, user, seconds=TREE_SECONDS)
    connection.decode(answer, Kind.OK, _nothing)


async def list_dir(connection: ControlConnection, path: str, user: str, depth: int) -> list[Entry]:
    entries: list[Entry] = []
    budget = MAX_LISTING_BYTES
    rest = Writer().u32(min(max(depth, 1), 0xFFFF_FFFF)).finish()
    async with contextlib.aclosing(ask_for_many(connection, Kind.LIST, path, user, rest)) as messages:
        async for message in messages:
            budget -= len(message.body)
            entries += connection.decode(message, Kind.ENTRIES, _entries)
            if budget < 0 or len(entries) > MAX_ENTRIES:
                raise LimitExceeded(f"path {path!r} holds too many entries to list; list its directories one by one")
    return entries


def _body(path: str, user: str, rest: bytes) -> bytes:
    return Writer().data(encode(user, "user")).data(encode(path, "path")).finish() + rest


def _nothing(message: Message) -> None:
    Reader(message.body).end()


def _opened_file(message: Message) -> OpenedFile:
    entry = _one_entry(message)
    if len(message.handles) != 1:
        raise WireError("OPEN was not answered with one regular file")
    return OpenedFile(message.handles[0].file(entry), entry)


def _one_entry(message: Message) -> Entry:
    reader = Reader(message.body)
    entry = _entry(reader)
    reader.end()
    return entry


def _entries(message: Message) -> list[Entry]:
    reader = Reader(message.body)
    reader.u32()  # more
    entries = reader.items(lambda: _entry(reader), item_size=_MIN_ENTRY)
    reader.end()
    return entries


def _entry(reader: Reader) -> Entry:
    path = shown(reader.data())
    kind, mode, link_mode = reader.u32(), reader.u32(), reader.u32()
    size, mtime_ns = reader.u64(), reader.i64()
    return Entry(
        path=path,
        type=_FILE_TYPES.get(kind, FileType.UNSPECIFIED),
        mode=mode,
        link_mode=link_mode,
        size=size,
        mtime_ns=mtime_ns,
        uid=reader.u32(),
        gid=reader.u32(),
        owner=shown(reader.data()),
        group=shown(reader.data()),
        target=shown(reader.data()),
        metadata=dict(reader.items(lambda: (shown(reader.data()), shown(reader.data())), item_size=8)),
    )


_FILE_TYPES = {1: FileType.FILE, 2: FileType.DIRECTORY}
