"""Processes in a real sandbox: what they are, how they start, fail and end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import termios
from pathlib import Path

import pytest

from cube.cubelet.runtime.container.guest import ContainerGuest
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.guest.processes import ControlProcess
from cube.envd.guest import ExitStatus, SpawnRequest
from cube.model import errors
from cube.model.errors import CubeError, InvalidInput, LimitExceeded, NotFound, SandboxNotRunning
from support.inside_sandbox import TERMINAL, Inside, inside, read_until, release
from support.launch_ground import exists

pytestmark = pytest.mark.root


class TestIdentity:
    async def test_a_user_with_its_groups_and_no_rights(self, box: Inside) -> None:
        script = "id -u; id -G; umask; grep -E 'Cap(Eff|Prm|Inh|Amb)|NoNewPrivs' /proc/self/status | cut -f2"
        assert await box.run(script) == "\n".join(["1000", "1000 2000", "0022", *["0" * 16] * 4, "1"])

    async def test_root_keeps_the_rights_of_process_1(self, box: Inside) -> None:
        found = await box.run("id -u; id -G; grep CapEff /proc/self/status /proc/1/status | cut -f2", "root")
        assert found == "0\n0\n00000000000000e3\n00000000000000e3"

    @pytest.mark.parametrize(("user", "expected"), [("", "0:0"), ("1000", "1000:1000"), ("4711", "4711:0")])
    async def test_users_by_number_and_by_default(self, box: Inside, user: str, expected: str) -> None:
        assert await box.run("echo $(id -u):$(id -g)", user) == expected

    async def test_environment(self, box: Inside) -> None:
        found = await box.run("env -u PWD -u SHLVL -u _ env | sort", env={"A": "1", "SHELL": "/x"})
        assert found.splitlines() == [
            "A=1",
            "HOME=/home/user",
            "LOGNAME=user",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SHELL=/x",
            "USER=user",
        ]

    @pytest.mark.parametrize(
        ("user", "cwd", "expected"),
        [
            ("user", "", "/home/user"),
            ("user", "~", "/home/user"),
            ("user", "x y", "/home/user/x y"),
            ("user", "~/x y/..", "/home/user"),
            ("user", "/tmp", "/tmp"),
            ("other", "", "/"),
        ],
    )
    async def test_working_directory(self, box: Inside, user: str, cwd: str, expected: str) -> None:
        await box.guest.make_dir("x y", "user")
        assert await box.run("pwd", user, cwd=cwd) == expected

    async def test_nothing_of_process_1_is_inherited(self, box: Inside) -> None:
        script = (
            "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2; cat /proc/self/sessionid >/dev/null"
        )
        assert await box.run(f"{script}; ps -o sid= -p $$ | grep -c $$") == f"0\n1\n2\n3\n{'0' * 16}\n{'0' * 16}\n1"

    async def test_process_1_is_closed_to_everybody(self, box: Inside) -> None:
        script = "cat /proc/1/environ; ls -l /proc/1/fd; readlink /proc/1/exe; cat /proc/1/mem | head -c 1"
        for user in ("user", "root"):
            found = await box.run(f"{script}; true", user)
            assert found.count("Permission denied") + found.count("cannot read") >= 3, found

    async def test_a_program_may_open_its_own_pipes_again(self, box: Inside) -> None:
        assert await box.run("echo again > /dev/fd/1; cat < /dev/null") == "again"


class TestStart:
    async def test_exit_codes_and_signals(self, box: Inside) -> None:
        process = await box.spawn("/bin/sh", "-c", "exit 7")
        assert (await box.ended(process))[0] == ExitStatus(7)
        process = await box.spawn("/bin/sh", "-c", "kill -9 $$")
        assert (await box.ended(process))[0] == ExitStatus(None, 9)

    async def test_its_number_is_that_inside(self, box: Inside) -> None:
        process = await box.spawn("/bin/sh", "-c", "echo $$ $PPID")
        assert await box.ended(process) == (ExitStatus(0), f"{process.pid} 1\n")

    async def test_stdout_and_stderr_are_apart(self, box: Inside) -> None:
        process = await box.spawn("/bin/sh", "-c", "echo out; echo err >&2")
        assert process.stderr is not None
        assert await asyncio.to_thread(os.read, process.stderr, 100) == b"err\n"
        assert (await box.ended(process))[1] == "out\n"

    async def test_stdin(self, box: Inside) -> None:
        process = await box.spawn("cat", stdin=True)
        assert process.stdin is not None
        os.write(process.stdin, b"in")
        os.close(process.stdin)
        process.stdin = None
        assert await box.ended(process) == (ExitStatus(0), "in")
        assert await box.run("readlink /proc/self/fd/0; cat") == "/dev/null"

    async def test_a_terminal(self, box: Inside) -> None:
        script = "tty; stty size; stat -c %U $(tty); echo mine > /dev/tty; read line; stty size"
        process = await box.spawn("/bin/bash", "-c", script, terminal=TERMINAL)
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
        assert process.terminal is not None
        output = await asyncio.to_thread(read_until, process.terminal, "mine")
        assert output.split() == ["/dev/pts/0", "30", "100", "user", "mine"]
        fcntl.ioctl(process.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
        os.write(process.terminal, b"line\n")
        status, output = await box.ended(process)
        assert (status, output.split()) == (ExitStatus(0), ["line", "40", "90"])

    async def test_keys_of_the_terminal_are_signals(self, box: Inside) -> None:
        process = await box.spawn("/bin/sh", "-c", "echo ready; exec sleep 60", terminal=TERMINAL)
        assert process.terminal is not None
        await asyncio.to_thread(read_until, process.terminal, "ready\r\n")
        os.write(process.terminal, b"\x03")
        assert (await box.ended(process))[0] == ExitStatus(None, signal.SIGINT)

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            (SpawnRequest(("no-such-program",), "user"), NotFound),
            (SpawnRequest(("/etc/passwd",), "user"), errors.PermissionDenied),
            (SpawnRequest(("/home",), "user"), errors.PermissionDenied),
            (SpawnRequest(("true",), "nobody-at-all"), errors.Unauthenticated),
            (SpawnRequest(("true",), "70000"), errors.Unauthenticated),
            (SpawnRequest(("true",), "user", cwd="/no/where"), InvalidInput),
            (SpawnRequest(("true",), "user", cwd="/etc/passwd"), InvalidInput),
            (SpawnRequest(("true", "x" * 3_000_000), "user"), InvalidInput),
        ],
    )
    async def test_failures(self, box: Inside, request_: SpawnRequest, expected: type[CubeError]) -> None:
        with pytest.raises(expected) as caught:
            await box.guest.spawn(request_)
        assert type(caught.value) is expected

    async def test_long_requests(self, box: Inside) -> None:
        environment = {f"V{number}": "x" * 1000 for number in range(200)}
        assert await box.run("echo ${#V0} ${#V199} $(env | grep -c ^V)", env=environment) == "1000 1000 200"

    async def test_too_many_processes(self, box: Inside) -> None:
        limit = box.place.cgroup / "pids.max"
        if not limit.exists():
            pytest.skip("this hierarchy has no pids controller")
        limit.write_text("1")
        with pytest.raises(LimitExceeded, match="too many"):
            await box.spawn("true")
        with pytest.raises(LimitExceeded, match="too many"):
            await box.guest.stat("/", "user")
        limit.write_text("max")
        assert await box.run("echo again") == "again"

    async def test_hundreds_at_once(self, box: Inside) -> None:
        async def one(number: int) -> str:
            return await box.run(f"echo {number}")

        assert await asyncio.gather(*map(one, range(100))) == [str(number) for number in range(100)]


class TestSignals:
    async def test_a_signal_arrives_once_it_runs_and_not_after(self, box: Inside) -> None:
        process = await box.spawn("sleep", "60")
        await process.signal(signal.SIGTERM)
        assert (await box.ended(process))[0] == ExitStatus(None, signal.SIGTERM)
        with pytest.raises(NotFound):
            await process.signal(signal.SIGTERM)

    async def test_only_what_was_started_from_here(self, box: Inside) -> None:
        for pid in (0, 1, 2**32 - 1):
            with pytest.raises(NotFound):
                await ControlProcess(box.guest._connection, pid).signal(signal.SIGKILL)
        await box.guest.ping()

    async def test_a_cancelled_start_leaves_no_process(self, box: Inside) -> None:
        for turns in range(20):
            task = asyncio.create_task(box.spawn("sleep", "4711"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(result, BaseException):
                await result.signal(signal.SIGKILL)
                await box.ended(result)
        # A request that was answered after all kills follow is proof that they were carried out.
        await box.guest.ping()
        script = "while pgrep -fx 'sleep 4711' > /dev/null; do :; done"
        await asyncio.wait_for(box.run(script), 5)


class TestReaping:
    async def test_orphans_leave_no_zombies(self, box: Inside) -> None:
        await box.run("for n in $(seq 300); do (true &) ; done")
        script = "while ps -eo stat= | grep -q Z; do :; done"
        await asyncio.wait_for(box.run(script), 5)

    async def test_processes_survive_a_lost_connection_and_another_one_is_served(self, box: Inside) -> None:
        process = await box.spawn("sleep", "4712")
        await box.guest.close()
        box.launched.control.close()
        release(process)  # type: ignore[arg-type]
        with pytest.raises(SandboxNotRunning):
            await process.wait()
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.connect(str(box.place.directory / "control"))
        box.guest = ContainerGuest(control, "sbx")
        assert await box.run("pgrep -fxc 'sleep 4712'") == "1"
        assert not box.guest.closed.is_set()

    async def test_the_end_of_the_sandbox_is_noticed(self, box: Inside) -> None:
        process = await box.spawn("sleep", "60")
        signal.pidfd_send_signal(box.launched.pidfd, signal.SIGKILL)
        with pytest.raises(SandboxNotRunning):
            await process.wait()
        box.launched.control.close()
        await asyncio.wait_for(box.guest.closed.wait(), 5)
        release(process)  # type: ignore[arg-type]


class TestSlowReader:
    async def test_a_host_that_does_not_read_blocks_nobody_and_loses_nothing(self, box: Inside) -> None:
        slow = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        slow.connect(str(box.place.directory / "control"))
        quick = box.guest
        box.guest = ContainerGuest(slow, "sbx")
        link = box.guest._connection._link
        loop = asyncio.get_running_loop()
        # Far more ends than fit into the socket, while nobody reads on this side of it.
        waiting = [await box.spawn("sh", "-c", "read line", stdin=True) for _ in range(100)]
        pings = [asyncio.create_task(box.guest.ping()) for _ in range(500)]
        await asyncio.sleep(0)
        loop.remove_reader(slow)
        for process in waiting:
            release(process)
        for _ in range(20):
            await quick.ping()
        assert await Inside(quick, box.launched, box.place).run("echo quick") == "quick"
        loop.add_reader(slow, link._read)
        await asyncio.wait_for(asyncio.gather(*pings), 5)
        assert {await process.wait() for process in waiting} == {ExitStatus(1)}
        await quick.close()


class TestHostileUserDatabase:
    @pytest.mark.parametrize(
        "script",
        [
            "rm /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group",
            "rm /etc/passwd /etc/group; mkdir /etc/passwd /etc/group",
            "rm /etc/passwd /etc/group",
            "ln -sf /dev/zero /etc/passwd; ln -sf /dev/zero /etc/group",
            "head -c 3000000 /dev/zero > /etc/passwd; head -c 3000000 /dev/zero | tr '\\0' : > /etc/group",
            r"printf '::::::\n:\nroot\nroot:x\nroot:x:99999999999:0\n\n\0\0' > /etc/passwd",
        ],
    )
    async def test_root_can_still_be_become(self, box: Inside, script: str) -> None:
        await box.run(script, "root")
        assert await asyncio.wait_for(box.run("id -u; cd ~; pwd", ""), 5) == "0\n/root"
        with pytest.raises(errors.Unauthenticated):
            await box.spawn("true", user="user")
        assert (await box.guest.stat("/", "root")).uid == 0

    async def test_more_groups_than_there_may_be(self, box: Inside) -> None:
        lines = "\n".join(f"g{number}:x:{number}:user" for number in range(1, 3000))
        await box.write("/etc/group", lines.encode(), "root")
        assert len((await box.run("id -G")).split()) == 1024

    async def test_a_terminal_device_that_is_none(self, box: Inside) -> None:
        await box.run("rm /dev/ptmx; ln -s /dev/null /dev/ptmx", "root")
        with pytest.raises(CubeError):
            await box.spawn("true", terminal=TERMINAL)


async def test_everything_of_a_sandbox_ends_with_it(launcher: Launcher, tmp_path: Path, cube_init: Path) -> None:
    async with inside(launcher, tmp_path, cube_init) as box:
        process = await box.spawn("sleep", "60")
        found = (box.place.cgroup / "cgroup.procs").read_text().split()
        assert len(found) == 2
        release(process)
    assert not any(exists(int(pid)) for pid in found)
