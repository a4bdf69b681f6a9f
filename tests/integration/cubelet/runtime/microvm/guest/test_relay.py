"""The relay, as the host sees it: processes, files and watches through one stream of bytes.

The machine is left out: the relay is an ordinary process before a process 1 that is one too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
import uvloop

from cube.cubelet.runtime.microvm.frames import MARK, FrameType, pack
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.envd.guest import EventType, ExitStatus, GuestProcess, SpawnRequest, TerminalSize
from cube.model.errors import InvalidInput, NotFound, SandboxNotRunning, Unavailable
from support.inside_sandbox import read_to_end, release
from support.relay_ground import RelayGround, identity, relay_ground

MARK_IN_DATA = MARK * 5000


async def spawn(guest: MicroVMGuest, script: str, **more: object) -> GuestProcess:
    return await guest.spawn(SpawnRequest(("sh", "-c", script), "root", **more))  # type: ignore[arg-type]


async def output_of(process: GuestProcess) -> str:
    return await asyncio.to_thread(read_to_end, process.stdout if process.terminal is None else process.terminal)


async def run(guest: MicroVMGuest, script: str) -> str:
    process = await spawn(guest, script)
    output = await output_of(process)
    assert await process.wait() == ExitStatus(0)
    release(process)
    return output


class TestProcesses:
    async def test_input_output_and_the_end(self, guest: MicroVMGuest) -> None:
        process = await spawn(guest, "cat; echo err >&2; exit 3", stdin=True)
        assert process.stdin is not None
        os.write(process.stdin, b"in")
        os.close(process.stdin)
        process.stdin = None
        assert await output_of(process) == "in"
        assert await asyncio.to_thread(read_to_end, process.stderr) == "err\n"
        assert await process.wait() == ExitStatus(3)
        release(process)

    async def test_a_signal_and_a_start_that_fails(self, guest: MicroVMGuest) -> None:
        process = await spawn(guest, "sleep 1000")
        await process.signal(9)
        assert await process.wait() == ExitStatus(None, 9)
        with pytest.raises(NotFound):
            await process.signal(9)
        release(process)
        with pytest.raises(NotFound, match="nowhere"):
            await guest.spawn(SpawnRequest(("/nowhere",), "root"))

    async def test_a_terminal(self, guest: MicroVMGuest) -> None:
        process = await spawn(guest, "read line; stty size; test -t 1", terminal=TerminalSize(80, 24))
        await process.resize(TerminalSize(101, 31))
        assert process.terminal is not None
        os.write(process.terminal, b"\n")
        assert "31 101" in await output_of(process)
        assert await process.wait() == ExitStatus(0)
        await process.resize(TerminalSize(1, 1))
        release(process)

    async def test_a_reader_that_leaves_is_felt_inside(self, guest: MicroVMGuest) -> None:
        process = await spawn(guest, "trap '' PIPE; while echo x; do :; done 2>/dev/null; exit 7")
        assert process.stdout is not None
        await asyncio.to_thread(os.read, process.stdout, 10)
        os.close(process.stdout)
        process.stdout = None
        assert await asyncio.wait_for(process.wait(), 30) == ExitStatus(7)
        release(process)

    async def test_a_process_that_closes_its_input_is_felt_outside(self, guest: MicroVMGuest) -> None:
        process = await spawn(guest, "exec 0<&-; echo closed; sleep 1000", stdin=True)
        assert process.stdout is not None
        assert process.stdin is not None
        assert await asyncio.to_thread(os.read, process.stdout, 100) == b"closed\n"
        with pytest.raises(BrokenPipeError):  # noqa: PT012  how soon is the relay's affair
            while True:
                os.write(process.stdin, b"x")
                await asyncio.sleep(0.01)
        await process.signal(9)
        release(process)

    async def test_what_may_not_occur_in_a_frame_does_occur_in_data(self, guest: MicroVMGuest) -> None:
        process = await spawn(guest, "cat", stdin=True)
        assert process.stdin is not None
        reading = asyncio.create_task(asyncio.to_thread(_read_bytes, process.stdout))
        await asyncio.to_thread(_write_all, process.stdin, MARK_IN_DATA)
        os.close(process.stdin)
        process.stdin = None
        assert await reading == MARK_IN_DATA
        release(process)

    async def test_many_at_a_time(self, guest: MicroVMGuest) -> None:
        outputs = await asyncio.gather(*(run(guest, f"echo {number}") for number in range(60)))
        assert outputs == [f"{number}\n" for number in range(60)]


class TestPressure:
    async def test_a_slow_reader_loses_nothing_and_costs_no_memory(
        self, guest: MicroVMGuest, ground: RelayGround
    ) -> None:
        """Many times what the pipes and windows hold, while nobody reads; then all of it."""
        size = 300_000_000
        process = await spawn(guest, f"head -c {size} /dev/zero | tr '\\0' x")
        await asyncio.sleep(1)
        before = _resident(ground.relay.pid)
        await guest.ping()
        count, digest = await asyncio.to_thread(_digest, process.stdout)
        assert count == size
        assert digest == hashlib.sha256(b"x" * size).hexdigest()
        assert before < 8 << 20
        release(process)

    async def test_a_process_that_does_not_read_holds_up_nobody_else(
        self, guest: MicroVMGuest, ground: RelayGround
    ) -> None:
        process = await spawn(guest, "sleep 1000", stdin=True)
        assert process.stdin is not None
        os.set_blocking(process.stdin, False)
        written = 0
        while (more := await _fill(process.stdin)) > 0:
            written += more
        assert 0 < written < 1 << 20
        assert await run(guest, "echo others") == "others\n"
        assert _resident(ground.relay.pid) < 8 << 20
        await process.signal(9)
        release(process)

    async def test_long_messages(self, guest: MicroVMGuest) -> None:
        """A request that does not fit into a datagram, and an answer that does not fit into a frame."""
        text = "x" * 100_000
        request = SpawnRequest(("sh", "-c", "echo ${#A} ${#B}"), "root", env={"A": text, "B": text})
        process = await guest.spawn(request)
        assert await output_of(process) == "100000 100000\n"
        release(process)
        assert len(await guest.list_dir("/usr/share", "root", 2)) > 1000


class TestFiles:
    async def test_what_is_written_is_read(self, guest: MicroVMGuest, tmp_path: Path) -> None:
        content = os.urandom(3_000_000)
        opened = await guest.open_write(str(tmp_path / "file"), "root", mode=0o640)
        for at in range(0, len(content), 1 << 20):
            await opened.file.write(content[at : at + (1 << 20)])
        await opened.file.set_attributes({"user.e2b.a": "1", "user.e2b.b": "2"})
        await opened.file.set_attributes({"user.e2b.a": None, "user.e2b.never": None})
        opened.file.close()
        assert (tmp_path / "file").read_bytes() == content
        opened = await guest.open_read(str(tmp_path / "file"), "root")
        assert (opened.entry.size, opened.entry.metadata) == (len(content), {"b": "2"})
        assert await opened.file.read_at(1 << 20, 1_000_001) == content[1_000_001 : 1_000_001 + (1 << 20)]
        assert await opened.file.read_at(1 << 20, len(content) - 5) == content[-5:]
        assert await opened.file.read_at(1 << 20, len(content)) == b""
        status = (tmp_path / "file").stat()
        assert await opened.file.identity() == (status.st_dev, status.st_ino)
        with pytest.raises(InvalidInput, match="refused"):
            await opened.file.set_attributes({"nonsense": "x"})
        opened.file.close()

    async def test_files_are_closed_inside(self, guest: MicroVMGuest, ground: RelayGround, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        before = len(os.listdir(f"/proc/{ground.relay.pid}/fd"))
        opened = [await guest.open_read(str(tmp_path / "file"), "root") for _ in range(50)]
        assert len(os.listdir(f"/proc/{ground.relay.pid}/fd")) == before + 50
        for one in opened:
            one.file.close()
        await guest.ping()
        assert len(os.listdir(f"/proc/{ground.relay.pid}/fd")) == before

    async def test_watching(self, guest: MicroVMGuest, tmp_path: Path) -> None:
        watch = await guest.watch(str(tmp_path), "root", recursive=True)
        (tmp_path / "d").mkdir()
        seen = await _events(watch, "d")
        (tmp_path / "d" / "file").write_text("x")
        seen += await _events(watch, "d/file")
        assert ("d", EventType.CREATE) in seen
        assert ("d/file", EventType.CREATE) in seen
        watch.close()
        watch.close()

    async def test_what_was_done_before_a_read_is_in_it(self, guest: MicroVMGuest, tmp_path: Path) -> None:
        watch = await guest.watch(str(tmp_path), "root", recursive=False)
        for number in range(100):
            opened = await guest.open_write(str(tmp_path / f"{number}"), "root", mode=0o640)
            await opened.file.write(b"x")
            opened.file.close()
            assert (f"{number}", EventType.WRITE) in [(event.name, event.type) for event in await watch.read()]
        watch.close()

    async def test_many_events_wait_for_a_reader(self, guest: MicroVMGuest, tmp_path: Path) -> None:
        """More than the window and the pipe hold, in records that do not fill either evenly."""
        watch = await guest.watch(str(tmp_path), "root", recursive=False)
        names = [f"{number:0{1 + number % 200}}" for number in range(3000)]
        for name in names:
            (tmp_path / name).touch()
        created = [event.name for event in await watch.read() if event.type is EventType.CREATE]
        assert created == names
        watch.close()


class TestSessions:
    async def test_a_suspended_guest_goes_on_where_it_was(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        """Not a byte is lost or repeated, in either direction, however much is under way."""
        size = 20_000_000
        writer = await spawn(guest, f"head -c {size} /dev/zero | tr '\\0' y")
        reader = await spawn(guest, "sha256sum", stdin=True)
        assert reader.stdin is not None
        content = os.urandom(2_000_000)
        sending = asyncio.create_task(asyncio.to_thread(_write_all, reader.stdin, content))
        counting = asyncio.create_task(asyncio.to_thread(_digest, writer.stdout))
        for generation in range(2, 8):
            await asyncio.sleep(0.05)
            await guest.suspend()
            with pytest.raises(SandboxNotRunning, match="paused"):
                await guest.ping()
            await guest.resume(ground.path)
            await guest.identify(identity(generation))
        await sending
        os.close(reader.stdin)
        reader.stdin = None
        assert await counting == (size, hashlib.sha256(b"y" * size).hexdigest())
        assert await output_of(reader) == f"{hashlib.sha256(content).hexdigest()}  -\n"
        assert [await one.wait() for one in (writer, reader)] == [ExitStatus(0)] * 2
        release(writer)
        release(reader)

    async def test_what_ended_meanwhile_is_told_afterwards(
        self, guest: MicroVMGuest, ground: RelayGround, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "go")
        process = await spawn(guest, f"read line < {tmp_path}/go; echo last words; exit 5")
        waiting = asyncio.create_task(process.wait())
        await guest.suspend()
        (tmp_path / "go").write_text("\n")
        await asyncio.to_thread(_wait_for_end, process.pid)
        assert not waiting.done()
        await guest.resume(ground.path)
        assert await waiting == ExitStatus(5)
        assert await output_of(process) == "last words\n"
        release(process)

    async def test_an_end_that_was_told_to_nobody_is_told_again(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        """The host was already deaf when the relay still took it for a listener."""
        process = await spawn(guest, "exit 6")
        guest._connection.suspend()
        guest._link._transport.pause_reading()  # type: ignore[union-attr]
        await asyncio.to_thread(_wait_for_end, process.pid)
        guest._link.detach()
        await guest.resume(ground.path)
        assert await process.wait() == ExitStatus(6)
        release(process)

    async def test_a_request_under_way_fails_at_once(
        self, guest: MicroVMGuest, ground: RelayGround, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "passwd")
        asked = asyncio.create_task(guest.list_dir("/proc", "root", 3))
        await asyncio.sleep(0)
        await guest.suspend()
        with pytest.raises(SandboxNotRunning):
            await asked
        await guest.resume(ground.path)
        await guest.ping()

    async def test_a_second_host_begins_where_the_first_was_cut_off(
        self, guest: MicroVMGuest, ground: RelayGround
    ) -> None:
        """In the middle of frames, and with answers under way for the first."""
        process = await spawn(guest, "cat", stdin=True)
        for number in range(200):
            guest._connection.send(26, number + 1000, b"\0\0\0\0")  # type: ignore[arg-type]
        guest._link._flush()
        guest._link.detach()
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(ground.path))
            raw.sendall(MARK + pack(FrameType.HELLO, 0, struct.pack("<I", 1) + bytes(16)) + b"\x02\0\0\0half a fra")
        second = await ground.connect()
        assert await run(second, "echo second") == "second\n"
        await second.close()
        await guest.close()
        release(process)

    async def test_a_host_that_leaves_before_it_is_answered(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        """The relay finds out when it writes the answer."""
        guest._link.detach()
        ground.relay.send_signal(signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(ground.path))
            raw.sendall(MARK + pack(FrameType.HELLO, 0, struct.pack("<I", 1) + bytes(16)))
        ground.relay.send_signal(signal.SIGCONT)
        second = await ground.connect()
        assert await run(second, "echo second") == "second\n"
        await second.close()

    def test_on_the_event_loop_of_the_service(self, cube_init: Path, tmp_path: Path) -> None:
        """Whose transports are not asyncio's own."""

        async def everything() -> str:
            async with relay_ground(cube_init, tmp_path) as ground:
                guest = await ground.connect()
                await guest.suspend()
                await guest.resume(ground.path)
                output = await run(guest, "echo fast")
                await guest.close()
                return output

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(everything()) == "fast\n"

    async def test_a_guest_that_is_not_there_in_time(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="did not answer"):
            await MicroVMGuest.connect(tmp_path / "nowhere", "sbx", seconds=0.2)

    async def test_a_guest_that_ends(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        process = await spawn(guest, "sleep 1000")
        ground.serve.kill()
        await asyncio.wait_for(guest.closed.wait(), 10)
        with pytest.raises(SandboxNotRunning):
            await process.wait()
        release(process)

    async def test_nothing_is_carried_out_before_the_identity(self, ground: RelayGround) -> None:
        guest = await MicroVMGuest.connect(ground.path, "sbx")
        await guest.ping()
        with pytest.raises(Exception, match="path"):
            await guest.stat("/", "root")
        await guest.identify(identity())
        await guest.stat("/", "root")
        await guest.close()


class TestGarbage:
    """The relay is fed what no host sends; it serves the next one."""

    @pytest.mark.parametrize("seed", range(8))
    async def test_bytes(self, ground: RelayGround, seed: int) -> None:
        await _throw(ground, hashlib.shake_256(bytes([seed])).digest(200_000))

    @pytest.mark.parametrize("kind", range(9))
    async def test_frames_of_every_type(self, ground: RelayGround, kind: int) -> None:
        """About channels that exist and that do not, with payloads of every kind."""
        guest = await ground.connect()
        process = await spawn(guest, "sleep 1000", stdin=True)
        hello = MARK + pack(FrameType.HELLO, 0, struct.pack("<I", 1) + bytes(16))
        payloads = [b"", b"x", bytes(8), bytes(16), b"\xff" * 16, bytes(32768), b"\xff" * 400]
        numbers = [0, 1, 4096, 4097, 4098, 8193, 0xFFFF_FFFF]
        frames = [
            struct.pack("<BBHII", kind, flags, 0, number, len(payload)) + payload + b"\n"
            for number in numbers
            for payload in payloads
            for flags in (0, 1)
        ]
        guest._link.detach()
        await _throw(ground, hello + b"".join(frames))
        await guest.close()
        release(process)

    @pytest.mark.parametrize("kind", [0, *range(16, 27), *range(48, 60), 0xFFFF_FFFF])
    async def test_messages_of_every_kind(self, ground: RelayGround, kind: int) -> None:
        hello = MARK + pack(FrameType.HELLO, 0, struct.pack("<I", 1) + bytes(16))
        bodies = [b"", b"\xff" * 4, bytes(64), b"\xff" * 64, b"\x01\0\0\0" * 10]
        messages = [
            pack(FrameType.MESSAGE, 0, struct.pack("<I", count) + attached + struct.pack("<II", kind, 5) + body)
            for body in bodies
            for count, attached in ((0, b""), (1, struct.pack("<II", 4097, 1)), (40, b""))
        ]
        await _throw(ground, hello + b"".join(messages))


async def _throw(ground: RelayGround, data: bytes) -> None:
    """Send it, read what comes, and see whether the relay still serves."""
    reader, writer = await asyncio.open_unix_connection(str(ground.path))
    draining = asyncio.create_task(reader.read(-1))
    writer.write(data)
    await asyncio.wait_for(writer.drain(), 20)
    writer.write_eof()
    await asyncio.sleep(0.05)
    writer.close()
    draining.cancel()
    await asyncio.wait([draining])
    assert ground.relay.poll() is None
    guest = await ground.connect()
    assert await run(guest, "echo alive") == "alive\n"
    await guest.close()


async def _events(watch: object, name: str) -> list[tuple[str, EventType]]:
    found: list[tuple[str, EventType]] = []
    async with asyncio.timeout(20):
        while not any(event == name for event, _ in found):
            found += [(event.name, event.type) for event in await watch.read()]  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
    return found


def _wait_for_end(pid: int) -> None:
    """Until process 1 has reaped it."""
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)


async def _fill(fd: int) -> int:
    """Write as long as somebody takes it."""
    written = 0
    for _ in range(20):
        try:
            written += os.write(fd, bytes(65536))
        except BlockingIOError:
            await asyncio.sleep(0.02)
    return written


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_bytes(fd: int | None) -> bytes:
    assert fd is not None
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _digest(fd: int | None) -> tuple[int, str]:
    assert fd is not None
    count, digest = 0, hashlib.sha256()
    while part := os.read(fd, 1 << 20):
        count += len(part)
        digest.update(part)
    return count, digest.hexdigest()
