"""A watched directory of a sandbox: events of inotify, named by their path below that directory."""

from __future__ import annotations

import contextlib
import os
from collections import deque

import structlog

from cube.cubelet.runtime.guest.control import ControlConnection
from cube.cubelet.runtime.guest.files import ask_for_many, list_dir
from cube.cubelet.runtime.guest.inotify import Mask, RawEvent, parse_events
from cube.cubelet.runtime.guest.link import Inotify, Message
from cube.cubelet.runtime.guest.text import shown
from cube.cubelet.runtime.guest.wire import Kind, Reader, WireError, Writer
from cube.envd.guest import EventType, FileType, Watch, WatchEvent
from cube.model.errors import CubeError, LimitExceeded, SandboxNotRunning

_log = structlog.get_logger(__name__)

#: Directories below one watched directory; beyond it watching ends with ``LimitExceeded``.
MAX_DIRECTORIES = 65_536
#: Records that one :meth:`ControlWatch.read` takes at most, so that a storm of events cannot hold it for ever.
_MAX_RECORDS = 65_536
_ALL_LEVELS = 0xFFFF_FFFF

_TYPES = {
    Mask.CREATE: EventType.CREATE,
    Mask.MOVED_TO: EventType.CREATE,
    Mask.MODIFY: EventType.WRITE,
    Mask.DELETE: EventType.REMOVE,
    Mask.MOVED_FROM: EventType.RENAME,
    Mask.ATTRIB: EventType.CHMOD,
}
_TYPES_OF_TOP = {Mask.DELETE_SELF: EventType.REMOVE, Mask.MOVE_SELF: EventType.RENAME}


class ControlWatch(Watch):
    """Implements ``Watch`` over an inotify instance that a child of process 1, being the user, has filled.

    Renaming ``a`` to ``b`` is ``RENAME a`` and ``CREATE b``. The end of the watched directory itself is reported with
    the name ``.``. When watching recursively, a new directory is watched as soon as :meth:`read` comes across it; what
    was made in it before is reported as ``CREATE`` then, and as ``WRITE`` where it is not empty. When the kernel's
    queue overflows (``fs.inotify.max_queued_events``), what did not fit is lost and watching goes on.
    """

    def __init__(self, connection: ControlConnection, path: str, user: str, *, recursive: bool) -> None:
        self._connection = connection
        self._path = path
        self._user = user
        self._recursive = recursive
        self._inotify: Inotify | None = None
        #: Paths below the watched one, in the encoding of file names.
        self._directories: dict[int, str] = {}
        self._records: deque[RawEvent] = deque()
        self._events: list[WatchEvent] = []
        #: Reported because they were found in a new directory; the kernel's own record of it may still be in the queue.
        self._found: set[WatchEvent] = set()

    async def start(self) -> None:
        """Begin to watch; raises as ``Guest.watch`` does."""
        try:
            await self._add("")
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return -1 if self._inotify is None else self._inotify.fileno()

    async def read(self) -> list[WatchEvent]:
        if self._connection.closed.is_set():
            raise self._connection.not_running()
        for _ in range(_MAX_RECORDS):
            if not await self._fill():
                self._found.clear()
                break
            # Looked at first and taken away after: a cancelled read loses nothing and repeats nothing.
            events = await self._interpret(self._records[0])
            self._records.popleft()
            self._events += events
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        inotify, self._inotify = self._inotify, None
        self._records.clear()
        if inotify is not None:
            inotify.close()

    async def _fill(self) -> bool:
        if not self._records and self._inotify is not None:
            self._records.extend(parse_events(await self._inotify.read()))
        return bool(self._records)

    async def _interpret(self, record: RawEvent) -> list[WatchEvent]:
        if record.mask & Mask.Q_OVERFLOW:
            await self._add_quietly("")
            return []
        directory = self._directories.get(record.wd)
        if directory is None:
            return []
        if record.mask & Mask.IGNORED:
            del self._directories[record.wd]
            return []
        if not record.name:
            return [] if directory else _events(".", record.mask, _TYPES_OF_TOP)
        return await self._changed(_join(directory, os.fsdecode(record.name)), record.mask)

    async def _changed(self, name: str, mask: int) -> list[WatchEvent]:
        events = [event for event in _events(name, mask, _TYPES) if event not in self._found]
        if mask & (Mask.DELETE | Mask.MOVED_FROM):
            self._found -= set(_found_events(name, written=True))
        if self._recursive and mask & Mask.ISDIR:
            if mask & Mask.MOVED_FROM:
                self._forget(name)
            elif mask & Mask.MOVED_TO:
                await self._add_quietly(name)
            elif mask & Mask.CREATE and await self._add_quietly(name):
                events += await self._look_into(name)
        return events

    async def _look_into(self, name: str) -> list[WatchEvent]:
        """What a new directory holds already was made, and maybe written to, before it was watched."""
        try:
            entries = await list_dir(self._connection, _join(self._path, name), self._user, _ALL_LEVELS)
        except SandboxNotRunning:
            raise
        except CubeError:
            return []
        # In walk order the first entry lies in the directory itself.
        base = entries[0].path.rpartition("/")[0] + "/" if entries else "/"
        found: list[WatchEvent] = []
        for entry in entries:
            written = entry.type is FileType.FILE and entry.size > 0
            found += _found_events(_join(name, entry.path.removeprefix(base)), written=written)
        new = [event for event in found if event not in self._found]
        self._found.update(new)
        return new

    async def _add(self, name: str) -> None:
        """Watch a directory, and with ``recursive`` all below it. Adding one again is harmless."""
        attached = () if self._inotify is None else (self._inotify,)
        rest = Writer().u32(int(self._recursive)).finish()
        path = _join(self._path, name)
        answers = ask_for_many(self._connection, Kind.WATCH, path, self._user, rest, attached=attached)
        async with contextlib.aclosing(answers) as messages:
            async for message in messages:
                for wd, directory in self._connection.decode(message, Kind.WATCHES, self._take):
                    self._directories[wd] = _join(name, directory)
                if len(self._directories) > MAX_DIRECTORIES:
                    raise LimitExceeded(f"path {path!r} holds too many directories to watch all of them")

    async def _add_quietly(self, name: str) -> bool:
        """Like :meth:`_add`; false when the directory is gone again or there are too many."""
        try:
            await self._add(name)
        except SandboxNotRunning:
            raise
        except CubeError as error:
            _log.debug("directory not watched", sandbox_id=self._connection.sandbox_id, reason=error.message)
            return False
        return True

    def _take(self, message: Message) -> list[tuple[int, str]]:
        reader = Reader(message.body)
        reader.u32()  # more
        directories = reader.items(lambda: (reader.i32(), reader.text()), item_size=8)
        reader.end()
        if self._inotify is None:
            if len(message.handles) != 1:
                raise WireError("WATCH was not answered with an inotify descriptor")
            self._inotify = message.handles[0].inotify()
        return directories

    def _forget(self, name: str) -> None:
        """Moved away, maybe out of sight: the kernel goes on watching, but under which name is not known any more."""
        below = name + "/"
        gone = [wd for wd, directory in self._directories.items() if directory == name or directory.startswith(below)]
        for wd in gone:
            del self._directories[wd]


def _events(name: str, mask: int, types: dict[Mask, EventType]) -> list[WatchEvent]:
    return [WatchEvent(shown(os.fsencode(name)), kind) for bit, kind in types.items() if mask & bit]


def _found_events(name: str, *, written: bool) -> list[WatchEvent]:
    events = _events(name, Mask.CREATE, _TYPES)
    return events + _events(name, Mask.MODIFY, _TYPES) if written else events


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name
