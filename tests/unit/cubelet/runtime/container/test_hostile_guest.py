"""ContainerGuest against a process 1 that breaks every rule: no hang, no crash, no descriptor left."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import contextmanager
from typing import Any

import pytest

from cube.cubelet.runtime.container import link
from cube.cubelet.runtime.container.datagrams import Datagram
from cube.cubelet.runtime.container.guest import ContainerGuest
from cube.cubelet.runtime.guest import files, processes, wire
from cube.cubelet.runtime.guest.wire import Writer
from cube.envd.guest import ExitStatus, FileType, SpawnRequest, TerminalSize
from cube.model import errors
from cube.model.errors import CubeError, InvalidInput, LimitExceeded, NotFound, SandboxNotRunning, Unavailable
from support.descriptors import open_fds
from support.lying_guest import Kind, Liar, entries, entry, exited, failure

TRUE = SpawnRequest(("true",), "root")


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    before = open_fds()
    made = Liar()
    yield made
    made.close()
    made.ours.close()
    await asyncio.sleep(0)
    assert open_fds() == before


@pytest.fixture
async def guest(liar: Liar) -> AsyncIterator[ContainerGuest]:
    made = ContainerGuest(liar.ours, "sbx")
    yield made
    await made.close()


async def asked(liar: Liar, call: Coroutine[Any, Any, Any]) -> tuple[asyncio.Task[Any], Datagram]:
    """Start a call and return it with the request that it sends."""
    task = asyncio.create_task(call)
    return task, await liar.request()


@contextmanager
def pipes(count: int) -> Any:
    """Descriptors for a lying SPAWNED, closed here afterwards."""
    made = [fd for _ in range(count) for fd in os.pipe()]
    try:
        yield made[:count]
    finally:
        for fd in made:
            os.close(fd)


async def spawned(liar: Liar, guest: ContainerGuest, pid: int = 7) -> tuple[processes.ControlProcess, int]:
    """A process that has started, and the number of its request."""
    task, request = await asked(liar, guest.spawn(TRUE))
    with pipes(2) as fds:
        liar.answer(Kind.SPAWNED, request.id, Writer().u32(pid).finish(), fds)
    process = await task
    os.close(process.stdout)
    os.close(process.stderr)
    return process, request.id


async def assert_broken(guest: ContainerGuest, *tasks: asyncio.Task[Any]) -> None:
    """The connection has been given up, and everybody who waited knows."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, SandboxNotRunning), result
    assert guest.closed.is_set()
    with pytest.raises(SandboxNotRunning):
        await guest.ping()


class TestConversation:
    async def test_answers_find_their_requests_in_any_order(self, liar: Liar, guest: ContainerGuest) -> None:
        first, request_1 = await asked(liar, guest.stat("/a", "root"))
        second, request_2 = await asked(liar, guest.stat("/b", "root"))
        liar.answer(Kind.ENTRY, request_2.id, entry("/b").finish())
        liar.answer(Kind.ENTRY, request_1.id, entry("/a").finish())
        assert ((await first).path, (await second).path) == ("/a", "/b")

    async def test_every_field_of_an_entry(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.stat("x", "user"))
        assert request.body == Writer().text("user").text("x").finish()
        liar.answer(Kind.ENTRY, request.id, entry("/x", type=2, size=2**64 - 1).finish())
        found = await task
        assert (found.type, found.size, found.mtime_ns, found.uid, found.gid) == (
            FileType.DIRECTORY,
            2**64 - 1,
            -7,
            1,
            2,
        )
        assert (found.owner, found.group, found.target, found.metadata) == (
            "owner",
            "group",
            "/target",
            {"key": "value"},
        )

    async def test_a_ready_that_was_left_on_the_socket_is_skipped(self, liar: Liar, guest: ContainerGuest) -> None:
        liar.answer(Kind.READY, 0)
        task, request = await asked(liar, guest.ping())
        liar.answer(Kind.OK, request.id)
        await task

    async def test_requests_wait_for_room_and_keep_their_order(self, liar: Liar, guest: ContainerGuest) -> None:
        liar.fill()
        tasks = [asyncio.create_task(guest.stat(f"/{number}", "root")) for number in range(3)]
        await asyncio.sleep(0)
        liar.read_raw()
        for number in range(3):
            request = await liar.request()
            assert request.body.endswith(f"/{number}".encode())
            liar.answer(Kind.ENTRY, request.id, entry(f"/{number}").finish())
        assert [(await task).path for task in tasks] == ["/0", "/1", "/2"]

    async def test_not_too_many_requests_wait_for_room(
        self, liar: Liar, guest: ContainerGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "_MAX_UNSENT", 2)
        liar.fill()
        tasks = [asyncio.create_task(guest.ping()) for _ in range(3)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(Unavailable, match="busy"):
            await done.pop()
        await guest.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def test_numbers_wrap_and_skip_those_in_use(self, liar: Liar, guest: ContainerGuest) -> None:
        _, request = await spawned(liar, guest)
        guest._connection._last_id = 0xFFFF_FFFF
        assert request == 1
        task, ping = await asked(liar, guest.ping())
        assert ping.id == 2
        liar.answer(Kind.OK, ping.id)
        await task


class TestEnd:
    async def test_everybody_who_waits_is_told(self, liar: Liar, guest: ContainerGuest) -> None:
        process, _ = await spawned(liar, guest)
        waiting = asyncio.create_task(process.wait())
        pinging, _ = await asked(liar, guest.ping())
        starting, _ = await asked(liar, guest.spawn(TRUE))
        listing, request = await asked(liar, guest.list_dir("/", "root", 1))
        liar.answer(Kind.ENTRIES, request.id, entries(1, ["/a"]))
        liar.close()
        await guest.closed.wait()
        await assert_broken(guest, waiting, pinging, starting, listing)

    async def test_closing_it_here_tells_them_too(self, liar: Liar, guest: ContainerGuest) -> None:
        process, _ = await spawned(liar, guest)
        pinging, _ = await asked(liar, guest.ping())
        await guest.close()
        await guest.close()
        await assert_broken(guest, pinging, asyncio.create_task(process.wait()))

    async def test_a_status_that_came_before_the_end_is_kept(self, liar: Liar, guest: ContainerGuest) -> None:
        process, request_id = await spawned(liar, guest)
        liar.answer(Kind.EXITED, request_id, exited(7, 3 << 8))
        liar.close()
        await guest.closed.wait()
        assert await process.wait() == ExitStatus(3)


class TestLies:
    @pytest.mark.parametrize(
        "data",
        [
            b"x",
            struct.pack("<I", Kind.OK),
            struct.pack("<II", Kind.OK | 0x8000_0000, 1),
            struct.pack("<IIQ", Kind.OK | 0x8000_0000, 1, 1 << 40),
            struct.pack("<II", Kind.OK, 1) + bytes(70_000),
        ],
    )
    async def test_messages_that_are_none(self, liar: Liar, guest: ContainerGuest, data: bytes) -> None:
        task, _ = await asked(liar, guest.ping())
        liar.raw(data)
        await assert_broken(guest, task)

    @pytest.mark.parametrize("cut", [1, 4, 9, 40, -1])
    async def test_entries_that_end_too_soon(self, liar: Liar, guest: ContainerGuest, cut: int) -> None:
        task, request = await asked(liar, guest.stat("/", "root"))
        liar.answer(Kind.ENTRY, request.id, entry().finish()[:cut])
        await assert_broken(guest, task)

    async def test_entries_with_something_behind(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.stat("/", "root"))
        liar.answer(Kind.ENTRY, request.id, entry().finish() + b"x")
        await assert_broken(guest, task)

    async def test_counts_that_cannot_be(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.list_dir("/", "root", 1))
        liar.answer(Kind.ENTRIES, request.id, Writer().u32(0).u32(0xFFFF_FFFF).finish())
        await assert_broken(guest, task)

    async def test_answers_to_nobody_are_thrown_away(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        with pipes(3) as fds:
            for request_id in (5, 77, 0xFFFF_FFFF):
                liar.answer(Kind.SPAWNED, request_id, b"nonsense", fds)
        task, request = await asked(liar, guest.ping())
        liar.answer(Kind.OK, request.id)
        await task
        assert open_fds() == before

    async def test_descriptors_that_nobody_asked_for(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.stat("/", "root"))
        with pipes(20) as fds:
            liar.answer(Kind.ENTRY, request.id, entry().finish(), fds)
        await task
        assert open_fds() == before

    async def test_more_descriptors_than_a_message_may_have(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.ping())
        with pipes(40) as fds:
            body = struct.pack("<II", Kind.OK, request.id)
            socket.send_fds(liar._theirs, [body], fds)
        await assert_broken(guest, task)

    @pytest.mark.parametrize("number", [0, -1, 12345678, errno.EIO])
    async def test_error_numbers_that_nobody_knows(self, liar: Liar, guest: ContainerGuest, number: int) -> None:
        task, request = await asked(liar, guest.stat("/", "root"))
        liar.answer(Kind.ERROR, request.id, failure(number, 4))
        with pytest.raises(errors.HostError):
            await task

    async def test_an_error_that_is_none(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.stat("/", "root"))
        liar.answer(Kind.ERROR, request.id, b"\0")
        await assert_broken(guest, task)


class TestBounds:
    async def test_an_endless_listing_ends(
        self, liar: Liar, guest: ContainerGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MAX_ENTRIES", 10)
        task, request = await asked(liar, guest.list_dir("/", "root", 1))
        for _ in range(6):
            liar.answer(Kind.ENTRIES, request.id, entries(1, ["/a", "/b"]))
        with pytest.raises(LimitExceeded, match="too many entries"):
            await task
        assert not guest.closed.is_set()

    async def test_a_heavy_listing_ends(
        self, liar: Liar, guest: ContainerGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MAX_LISTING_BYTES", 1000)
        task, request = await asked(liar, guest.list_dir("/", "root", 1))
        liar.answer(Kind.ENTRIES, request.id, entries(1, ["/" + "a" * 2000]))
        with pytest.raises(LimitExceeded):
            await task

    async def test_silence_ends(self, liar: Liar, guest: ContainerGuest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "REQUEST_SECONDS", 0.01)
        monkeypatch.setattr(files, "TREE_SECONDS", 0.01)
        for call in (guest.spawn(TRUE), guest.list_dir("/", "root", 1)):
            with pytest.raises(Unavailable, match="in time"):
                await call
        assert not guest.closed.is_set()

    async def test_a_flood_leaves_the_loop_to_others(self, liar: Liar, guest: ContainerGuest) -> None:
        with_room = 100
        for _ in range(with_room):
            liar.answer(Kind.OK, 99)
        turns = 0
        task, request = await asked(liar, guest.ping())
        liar.answer(Kind.OK, request.id)
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= with_room // 16


class TestSpawn:
    async def test_what_is_asked_for(self, liar: Liar, guest: ContainerGuest) -> None:
        request = SpawnRequest(("a", "b"), "user", "/w", {"K": "V=W"}, stdin=True)
        task, message = await asked(liar, guest.spawn(request))
        expected = Writer().u32(1).u32(0).u32(0).text("user").text("/w").texts(["a", "b"]).texts(["K=V=W"])
        assert message.body == expected.finish()
        with pipes(3) as fds:
            liar.answer(Kind.SPAWNED, message.id, Writer().u32(7).finish(), fds)
        process = await task
        assert process.pid == 7
        for fd in (process.stdin, process.stdout, process.stderr):
            os.close(fd)

    @pytest.mark.parametrize(
        ("status", "expected"), [(0, ExitStatus(0)), (9, ExitStatus(None, 9)), (256, ExitStatus(1))]
    )
    async def test_its_end_is_told_to_all_who_wait(
        self, liar: Liar, guest: ContainerGuest, status: int, expected: ExitStatus
    ) -> None:
        process, request_id = await spawned(liar, guest)
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        liar.answer(Kind.EXITED, request_id, exited(7, status))
        assert await asyncio.gather(*waiting, process.wait()) == [expected] * 4
        with pytest.raises(NotFound):
            await process.signal(signal.SIGTERM)

    async def test_start_and_end_in_one_breath(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.spawn(TRUE))
        with pipes(2) as fds:
            liar.answer(Kind.SPAWNED, request.id, Writer().u32(7).finish(), fds)
            liar.answer(Kind.EXITED, request.id, exited(7, 0))
        process = await task
        assert await process.wait() == ExitStatus(0)
        os.close(process.stdout)
        os.close(process.stderr)

    @pytest.mark.parametrize("count", [0, 1, 3, 10])
    async def test_a_wrong_number_of_descriptors(self, liar: Liar, guest: ContainerGuest, count: int) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.spawn(TRUE))
        with pipes(count) as fds:
            liar.answer(Kind.SPAWNED, request.id, Writer().u32(7).finish(), fds)
        await assert_broken(guest, task)
        assert len(open_fds()) == len(before) - 1

    @pytest.mark.parametrize("terminal", [None, TerminalSize(80, 24)])
    async def test_descriptors_that_could_block_or_lead_astray(
        self, liar: Liar, guest: ContainerGuest, terminal: TerminalSize | None
    ) -> None:
        task, request = await asked(liar, guest.spawn(SpawnRequest(("sh",), "root", terminal=terminal)))
        with tempfile.TemporaryFile() as file:
            fds = [file.fileno()] * (1 if terminal else 2)
            liar.answer(Kind.SPAWNED, request.id, Writer().u32(7).finish(), fds)
        await assert_broken(guest, task)

    @pytest.mark.parametrize(
        "answers",
        [
            [(Kind.EXITED, exited(8, 0))],
            [(Kind.EXITED, exited(7, 0x137F))],
            [(Kind.EXITED, b"")],
            [(Kind.ERROR, failure(2, 3))],
            [(Kind.SPAWNED, Writer().u32(8).finish())],
        ],
    )
    async def test_nonsense_about_a_running_process(
        self, liar: Liar, guest: ContainerGuest, answers: list[tuple[Kind, bytes]]
    ) -> None:
        process, request_id = await spawned(liar, guest)
        for kind, body in answers:
            liar.answer(kind, request_id, body)
        await assert_broken(guest, asyncio.create_task(process.wait()))

    async def test_a_cancelled_start_kills_what_starts_anyway(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.spawn(TRUE))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pipes(2) as fds:
            liar.answer(Kind.SPAWNED, request.id, Writer().u32(7).finish(), fds)
        killing = await liar.request()
        assert (killing.kind, killing.body) == (Kind.SIGNAL, processes.signal_body(7, signal.SIGKILL))
        liar.answer(Kind.OK, killing.id)
        liar.answer(Kind.EXITED, request.id, exited(7, 9))
        task, ping = await asked(liar, guest.ping())
        liar.answer(Kind.OK, ping.id)
        await task
        assert open_fds() == before
        assert guest._connection._receivers == {}

    async def test_cancelled_when_it_has_just_started(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.spawn(TRUE))
        with pipes(2) as fds:
            liar.answer(Kind.SPAWNED, request.id, Writer().u32(7).finish(), fds)
        while not guest._connection._receivers[request.id].started.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await liar.request()).kind == Kind.SIGNAL
        assert open_fds() == before

    async def test_a_cancelled_start_that_fails(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.spawn(TRUE))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        liar.answer(Kind.ERROR, request.id, failure(errno.ENOENT, 3))
        task, ping = await asked(liar, guest.ping())
        liar.answer(Kind.OK, ping.id)
        await task
        assert guest._connection._receivers == {}

    @pytest.mark.parametrize(
        ("number", "stage", "expected"),
        [
            (errno.ESRCH, 1, errors.Unauthenticated),
            (errno.ENOENT, 2, InvalidInput),
            (errno.EACCES, 2, errors.PermissionDenied),
            (errno.ENOENT, 3, NotFound),
            (errno.EACCES, 3, errors.PermissionDenied),
            (errno.ENOEXEC, 3, InvalidInput),
            (errno.E2BIG, 3, InvalidInput),
            (errno.EAGAIN, 5, LimitExceeded),
            (errno.ENOMEM, 5, LimitExceeded),
            (errno.ETIMEDOUT, 5, Unavailable),
        ],
    )
    async def test_failures(
        self, liar: Liar, guest: ContainerGuest, number: int, stage: int, expected: type[CubeError]
    ) -> None:
        task, request = await asked(liar, guest.spawn(TRUE))
        liar.answer(Kind.ERROR, request.id, failure(number, stage))
        with pytest.raises(expected) as caught:
            await task
        assert type(caught.value) is expected

    @pytest.mark.parametrize(
        "request_",
        [
            SpawnRequest((), "root"),
            SpawnRequest(("a\0b",), "root"),
            SpawnRequest(("a",), "ro\0ot"),
            SpawnRequest(("a",), "root", cwd="\0"),
            SpawnRequest(("\ud800",), "root"),
            SpawnRequest(("a",), "root", env={"A": "\0"}),
            SpawnRequest(("a",), "root", env={"A=B": "C"}),
            SpawnRequest(("a",), "root", terminal=TerminalSize(1 << 16, 1)),
            SpawnRequest(("a",), "root", terminal=TerminalSize(-1, 1)),
            SpawnRequest(("x" * (wire.BODY_MAX + 1),), "root"),
        ],
    )
    async def test_what_cannot_be_asked_for(self, liar: Liar, guest: ContainerGuest, request_: SpawnRequest) -> None:
        with pytest.raises(InvalidInput):
            await guest.spawn(request_)
        assert liar.read_raw() == []
        assert guest._connection._receivers == {}

    @pytest.mark.parametrize("number", [0, -1, 65, 1 << 40])
    async def test_signals_that_do_not_exist(self, liar: Liar, guest: ContainerGuest, number: int) -> None:
        process, _ = await spawned(liar, guest)
        with pytest.raises(InvalidInput):
            await process.signal(number)


class TestFiles:
    async def test_a_file_is_a_regular_one(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.open_read("/", "root"))
        with pipes(1) as fds:
            liar.answer(Kind.ENTRY, request.id, entry().finish(), fds)
        await assert_broken(guest, task)

    async def test_an_opened_file_without_descriptor(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.open_write("/", "root"))
        liar.answer(Kind.ENTRY, request.id, entry().finish())
        await assert_broken(guest, task)

    async def test_an_opened_file_with_a_broken_entry(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.open_read("/", "root"))
        with tempfile.TemporaryFile() as file:
            liar.answer(Kind.ENTRY, request.id, b"", [file.fileno()])
        await assert_broken(guest, task)
        assert len(open_fds()) == len(before) - 1

    async def test_a_cancelled_open_closes_a_late_answer(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.open_read("/", "root"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with tempfile.TemporaryFile() as file:
            liar.answer(Kind.ENTRY, request.id, entry().finish(), [file.fileno()])
        task, ping = await asked(liar, guest.ping())
        liar.answer(Kind.OK, ping.id)
        await task
        assert open_fds() == before

    async def test_cancelled_when_the_answer_has_just_come(self, liar: Liar, guest: ContainerGuest) -> None:
        before = open_fds()
        task, request = await asked(liar, guest.open_read("/", "root"))
        answers = guest._connection._receivers[request.id]
        with tempfile.TemporaryFile() as file:
            liar.answer(Kind.ENTRY, request.id, entry().finish(), [file.fileno()])
        while answers.queue.empty():  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_fds() == before

    async def test_names_that_are_not_utf_8_can_be_shown(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.list_dir("/", "root", 1))
        liar.answer(Kind.ENTRIES, request.id, entries(0, ["/\udcff"]))
        assert [found.path for found in await task] == ["/\\xff"]

    @pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * (wire.BODY_MAX + 1)])
    async def test_paths_that_cannot_be(self, liar: Liar, guest: ContainerGuest, path: str) -> None:
        for call in (
            guest.stat(path, "root"),
            guest.watch(path, "root", recursive=True),
            guest.move("a", path, "root"),
        ):
            with pytest.raises(InvalidInput):
                await call
        assert liar.read_raw() == []


class TestWatch:
    async def test_its_descriptor_is_one_of_inotify(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.watch("/", "root", recursive=False))
        with pipes(1) as fds:
            liar.answer(Kind.WATCHES, request.id, Writer().u32(0).u32(0).finish(), fds)
        await assert_broken(guest, task)

    async def test_no_descriptor_at_all(self, liar: Liar, guest: ContainerGuest) -> None:
        task, request = await asked(liar, guest.watch("/", "root", recursive=False))
        liar.answer(Kind.WATCHES, request.id, Writer().u32(0).u32(1).i32(1).text("").finish())
        await assert_broken(guest, task)
