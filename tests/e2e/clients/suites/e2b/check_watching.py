"""Watching directories."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Client, eventually, shows

Event = tuple[str, str]


@shows("Filesystem.watch_dir", "WatchHandle.get_new_events", "WatchHandle.stop", only="blocking")
async def check_asking_for_events(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.make_dir("d")
        watch = await sandbox.files.watch_dir("d")
        await sandbox.files.write("d/new", "x")
        events = [(event.name, event.type.value) for event in await watch.get_new_events()]
        assert events == [("new", "create"), ("new", "chmod"), ("new", "write")]
        await sandbox.files.rename("d/new", "d/other")
        await sandbox.files.remove("d/other")
        events = [(event.name, event.type.value) for event in await watch.get_new_events()]
        assert ("new", "rename") in events
        assert ("other", "remove") in events
        await watch.stop()
        with pytest.raises(client.types.SandboxException):
            await watch.get_new_events()


@shows("Filesystem.watch_dir", "WatchHandle.stop", only="asynchronous")
async def check_being_told_of_events(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.make_dir("d")
        seen: list[Event] = []
        ended: list[Exception | None] = []
        watch = await sandbox.files.watch_dir(
            "d", on_event=lambda event: seen.append((event.name, event.type.value)), on_exit=ended.append
        )
        await sandbox.files.write("d/new", "x")
        await eventually(lambda: _holds(len(seen) >= 3))
        assert seen == [("new", "create"), ("new", "chmod"), ("new", "write")]
        await watch.stop()
        await eventually(lambda: _holds(bool(ended)))


@shows("Filesystem.watch_dir")
async def check_recursively(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.make_dir("d/deep")
        events = await _Events.of(client, sandbox, "d", recursive=True)
        await sandbox.files.write("d/deep/er/f", "x")
        await events.until(("deep/er/f", "write"))


@shows("Filesystem.watch_dir", since="2.45")
async def check_events_with_entries(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.make_dir("d")
        events = await _Events.of(client, sandbox, "d", include_entry=True)
        await sandbox.files.write("d/f", "12345")
        await events.until(("f", "write"))
        (entry,) = [event.entry for event in events.whole if event.type.value == "create"]
        assert (entry.path, entry.type.value) == ("/home/user/d/f", "file")


@shows("Filesystem.watch_dir")
async def check_what_cannot_be_watched(client: Client) -> None:
    async with client.sandbox() as sandbox:
        with pytest.raises(client.types.NotFoundException):
            await _Events.of(client, sandbox, "missing")
        await sandbox.files.write("f", "x")
        with pytest.raises(client.types.InvalidArgumentException):
            await _Events.of(client, sandbox, "f")


class _Events:
    """What was seen in a directory, in either colour."""

    def __init__(self) -> None:
        self.whole: list[Any] = []
        self._watch: Any = None

    @classmethod
    async def of(cls, client: Client, sandbox: Any, path: str, **wishes: Any) -> _Events:
        events = cls()
        if not client.blocking:
            wishes["on_event"] = events.whole.append
        watch = await sandbox.files.watch_dir(path, **wishes)
        events._watch = watch if client.blocking else None
        return events

    async def until(self, wanted: Event) -> None:
        await eventually(lambda: self._contain(wanted))

    async def _contain(self, wanted: Event) -> bool:
        if self._watch is not None:
            self.whole += await self._watch.get_new_events()
        return wanted in [(event.name, event.type.value) for event in self.whole]


async def _holds(condition: bool) -> bool:
    return condition
