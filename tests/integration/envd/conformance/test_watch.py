"""Watching directories, as the client's users do it."""

from __future__ import annotations

import asyncio

import pytest
from e2b import (
    AsyncSandbox,
    FileNotFoundException,
    FilesystemEvent,
    FilesystemEventType,
    InvalidArgumentException,
    Sandbox,
)

CREATE, WRITE, CHMOD = FilesystemEventType.CREATE, FilesystemEventType.WRITE, FilesystemEventType.CHMOD
REMOVE, RENAME = FilesystemEventType.REMOVE, FilesystemEventType.RENAME


def kinds(events: list[FilesystemEvent]) -> list[tuple[str, FilesystemEventType]]:
    return [(event.name, event.type) for event in events]


def test_an_upload_is_create_chmod_write(client: Sandbox) -> None:
    client.files.make_dir("dir")
    handle = client.files.watch_dir("dir")
    client.files.write("dir/file", "content")
    assert kinds(handle.get_new_events()) == [("file", CREATE), ("file", CHMOD), ("file", WRITE)]
    assert handle.get_new_events() == []
    handle.stop()


def test_what_happens_inside(client: Sandbox) -> None:
    client.files.make_dir("dir")
    handle = client.files.watch_dir("dir")
    client.commands.run("cd dir; mkdir sub; echo x > a; mv a b; rm b")
    events = kinds(handle.get_new_events())
    for expected in (("sub", CREATE), ("a", CREATE), ("a", WRITE), ("a", RENAME), ("b", CREATE), ("b", REMOVE)):
        assert expected in events
    handle.stop()


def test_recursive(client: Sandbox) -> None:
    client.files.make_dir("dir/old")
    handle = client.files.watch_dir("dir", recursive=True)
    client.files.write("dir/old/file", "x")
    client.files.make_dir("dir/new")
    events = kinds(handle.get_new_events())
    assert [event for event in events if event[0] == "old/file"] == [
        ("old/file", CREATE),
        ("old/file", CHMOD),
        ("old/file", WRITE),
    ]
    assert ("new", CREATE) in events
    client.files.write("dir/new/file", "x")
    assert ("new/file", WRITE) in kinds(handle.get_new_events())
    handle.stop()


def test_not_recursive(client: Sandbox) -> None:
    client.files.make_dir("dir/sub")
    handle = client.files.watch_dir("dir")
    client.files.write("dir/sub/file", "x")
    assert not [event for event in handle.get_new_events() if event.name.startswith("sub/")]
    handle.stop()


def test_with_entries(client: Sandbox, home: str) -> None:
    client.files.make_dir("dir")
    handle = client.files.watch_dir("dir", include_entry=True)
    client.files.write("dir/file", "12345")
    events = handle.get_new_events()
    assert [event.entry and event.entry.path for event in events] == [f"{home}/dir/file"] * 3
    assert events[0].entry is not None
    assert events[0].entry.size == 5
    client.files.remove("dir/file")
    assert [(event.type, event.entry) for event in handle.get_new_events()] == [(REMOVE, None)]
    handle.stop()


def test_network_mounts_may_be_allowed(client: Sandbox) -> None:
    client.files.make_dir("dir")
    handle = client.files.watch_dir("dir", allow_network_mounts=True)
    client.files.write("dir/file", "x")
    assert handle.get_new_events()
    handle.stop()


def test_what_cannot_be_watched(client: Sandbox) -> None:
    client.files.write("file", "x")
    with pytest.raises(FileNotFoundException):
        client.files.watch_dir("missing")
    with pytest.raises(InvalidArgumentException):
        client.files.watch_dir("file")


def test_many_events(client: Sandbox) -> None:
    client.files.make_dir("dir")
    handle = client.files.watch_dir("dir")
    client.commands.run("for i in $(seq 500); do : > dir/$i; done")
    created = [name for name, kind in kinds(handle.get_new_events()) if kind is CREATE]
    assert created == [str(number) for number in range(1, 501)]
    handle.stop()


class TestAsync:
    async def test_a_stream(self, async_client: AsyncSandbox) -> None:
        await async_client.files.make_dir("dir")
        events: asyncio.Queue[FilesystemEvent] = asyncio.Queue()
        ended = asyncio.Event()
        handle = await async_client.files.watch_dir(
            "dir", on_event=events.put_nowait, on_exit=lambda _: ended.set(), include_entry=True, recursive=True
        )
        await async_client.files.write("dir/file", "x")
        async with asyncio.timeout(10):
            assert kinds([await events.get() for _ in range(3)]) == [("file", CREATE), ("file", CHMOD), ("file", WRITE)]
        await handle.stop()
        assert ended.is_set()

    async def test_a_time_limit(self, async_client: AsyncSandbox) -> None:
        await async_client.files.make_dir("dir")
        errors: asyncio.Queue[Exception | None] = asyncio.Queue()
        await async_client.files.watch_dir("dir", on_event=lambda _: None, on_exit=errors.put_nowait, timeout=0.3)
        async with asyncio.timeout(10):
            assert "TimeoutException" in type(await errors.get()).__name__
