"""Watched directories: streams of changes, and watchers that clients poll.

Bounds per sandbox: :data:`WATCHER_LIMIT` polled watchers with :data:`EVENT_LIMIT` events each; beyond that the oldest
events are dropped. A watcher lives until its client removes it or the sandbox ends.
"""

from __future__ import annotations

import asyncio
import posixpath
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Literal, cast

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof

from cube.envd.call import Call
from cube.envd.errors import connect_errors
from cube.envd.filesystem.entries import entry_info
from cube.envd.guest import EventType, Guest, Watch, WatchEvent
from cube.envd.proto.filesystem import filesystem_pb as pb
from cube.envd.sandboxes import EnvdSandbox
from cube.envd.wakeup import Wakeup
from cube.model.errors import CubeError, LimitExceeded, NotFound, PermissionDenied

WATCHER_LIMIT = 256
EVENT_LIMIT = 16384
BATCH_SECONDS = 0.01

_STATE_KEY = "cube.envd.filesystem"
_WITH_ENTRY = (EventType.CREATE, EventType.WRITE, EventType.CHMOD)


class _Readable:
    """Says once that a descriptor has become readable, each time it is armed; level-triggered it would spin.

    It says so no more often than every :data:`BATCH_SECONDS`: a storm of changes comes in few big batches.
    """

    def __init__(self, fd: int, action: Callable[[], None]) -> None:
        self._fd = fd
        self._action = action
        self._loop = asyncio.get_running_loop()
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.arm()

    def arm(self) -> None:
        if self._loop.time() < self._not_before:
            self._timer = self._loop.call_at(self._not_before, self._look)
        else:
            self._look()

    def disarm(self) -> None:
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self._loop.add_reader(self._fd, self._fire)

    def _fire(self) -> None:
        self.disarm()
        self._not_before = self._loop.time() + BATCH_SECONDS
        self._action()


async def follow(call: Call, watch: Watch, path: str, *, include_entry: bool) -> AsyncIterator[pb.WatchDirResponse]:
    """The messages of one ``WatchDir`` stream; closes ``watch``."""
    watchers = watchers_of(call.sandbox)
    wakeup = watchers.add_stream()
    call.connection.on_gone = wakeup.set
    readable = _Readable(watch.fileno(), wakeup.set)
    guest = call.sandbox.guest if include_entry else None
    try:
        yield _started()
        while not call.connection.gone:
            if not await _changes(call, wakeup):
                yield _alive()
                continue
            watchers.check_open()
            for event in await _read(watch):
                yield _changed(await _message(event, path, call.user, guest))
            readable.arm()
    finally:
        watchers.remove_stream(wakeup)
        readable.disarm()
        watch.close()


async def _changes(call: Call, wakeup: Wakeup) -> bool:
    with connect_errors():
        return await call.wait(wakeup)


def _alive() -> pb.WatchDirResponse:
    event: Oneof[Literal["keepalive"], pb.WatchDirResponse.KeepAlive]
    event = Oneof("keepalive", pb.WatchDirResponse.KeepAlive())
    return pb.WatchDirResponse(event=event)


def _started() -> pb.WatchDirResponse:
    event: Oneof[Literal["start"], pb.WatchDirResponse.StartEvent]
    event = Oneof("start", pb.WatchDirResponse.StartEvent())
    return pb.WatchDirResponse(event=event)


def _changed(message: pb.FilesystemEvent) -> pb.WatchDirResponse:
    event: Oneof[Literal["filesystem"], pb.FilesystemEvent] = Oneof("filesystem", message)
    return pb.WatchDirResponse(event=event)


async def _read(watch: Watch) -> list[WatchEvent]:
    with connect_errors():
        return await watch.read()


async def _message(event: WatchEvent, path: str, user: str, guest: Guest | None) -> pb.FilesystemEvent:
    """The wire form of a change; ``guest`` is given when the entry is wanted."""
    message = pb.FilesystemEvent(name=event.name, type=pb.EventType(event.type))
    if guest is not None and event.type in _WITH_ENTRY:
        try:
            message.entry = entry_info(await guest.stat(posixpath.join(path, event.name), user))
        except (NotFound, PermissionDenied):
            # It may be gone again; the change is told all the same.
            message.entry = None
    return message


class _Watcher:
    """Reads changes as they happen, so that the kernel's queue never overflows between two polls."""

    def __init__(self, watch: Watch, path: str, user: str, *, include_entry: bool) -> None:
        self.path = path
        self.user = user
        self.include_entry = include_entry
        self._watch = watch
        self._events: deque[WatchEvent] = deque(maxlen=EVENT_LIMIT)
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._readable = _Readable(watch.fileno(), self._start_collecting)

    async def drain(self) -> list[WatchEvent]:
        """All changes until now, once each."""
        await self._collect()
        events = list(self._events)
        self._events.clear()
        return events

    def close(self) -> None:
        """Stop; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._readable.disarm()
        if self._task is not None:
            self._task.cancel()
        self._watch.close()

    def _start_collecting(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._collect_more())

    async def _collect_more(self) -> None:
        try:
            await self._collect()
        except CubeError:
            return  # the sandbox died, or there is too much to watch; the next poll says so
        if not self._closed:
            self._readable.arm()

    async def _collect(self) -> None:
        async with self._reading:
            if not self._closed:
                self._events.extend(await self._watch.read())


class WatcherTable:
    """Polled watchers and streams of one sandbox."""

    def __init__(self) -> None:
        self._watchers: dict[str, _Watcher] = {}
        self._streams: set[Wakeup] = set()
        self._closed = False

    def add_stream(self) -> Wakeup:
        """What wakes a new stream, also when the sandbox stops."""
        wakeup = Wakeup()
        self._streams.add(wakeup)
        return wakeup

    def remove_stream(self, wakeup: Wakeup) -> None:
        """The stream has ended."""
        self._streams.discard(wakeup)

    def check_open(self) -> None:
        """Raise a Connect error when the sandbox has stopped."""
        if self._closed:
            raise ConnectError(Code.UNAVAILABLE, "the sandbox stopped")

    def check_room(self) -> None:
        """Raise ``LimitExceeded`` when no further watcher may be made."""
        self.check_open()
        if len(self._watchers) >= WATCHER_LIMIT:
            raise LimitExceeded(f"{WATCHER_LIMIT} watchers exist; remove some of them")

    def add(self, watch: Watch, path: str, user: str, *, include_entry: bool) -> str:
        """Take over ``watch``; returns the new watcher's id."""
        watcher_id = f"w{secrets.token_hex(8)}"
        self._watchers[watcher_id] = _Watcher(watch, path, user, include_entry=include_entry)
        return watcher_id

    async def events(self, watcher_id: str, guest: Guest) -> list[pb.FilesystemEvent]:
        """Changes since the last call; raises ``NotFound``."""
        watcher = self._watcher(watcher_id)
        stat_with = guest if watcher.include_entry else None
        return [await _message(event, watcher.path, watcher.user, stat_with) for event in await watcher.drain()]

    def remove(self, watcher_id: str) -> None:
        """Stop a watcher; raises ``NotFound``."""
        self._watcher(watcher_id).close()
        del self._watchers[watcher_id]

    async def close(self) -> None:
        """Stop all of them."""
        self._closed = True
        for wakeup in self._streams:
            wakeup.set()
        while self._watchers:
            self._watchers.popitem()[1].close()

    def _watcher(self, watcher_id: str) -> _Watcher:
        if (watcher := self._watchers.get(watcher_id)) is None:
            raise NotFound(f"watcher with id {watcher_id} not found")
        return watcher


def watchers_of(sandbox: EnvdSandbox) -> WatcherTable:
    """The watcher table of a sandbox, made on first use."""
    table = sandbox.state.get(_STATE_KEY)
    if table is None:
        table = sandbox.state[_STATE_KEY] = WatcherTable()
    return cast(WatcherTable, table)
