"""``sudo`` inside a real sandbox, as people use it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios

import pytest

from cube.envd.guest import ExitStatus
from support.inside_sandbox import TERMINAL, Inside, read_until

pytestmark = pytest.mark.root

SUDO = "/sbin-of-cube/sudo"
ENVIRONMENT = {"PATH": "/sbin-of-cube:/usr/bin:/bin"}


async def run(box: Inside, script: str, user: str = "user") -> str:
    return await box.run(script, user, env=ENVIRONMENT | {"FOO": "bar", "LANG": "C.UTF-8", "https_proxy": "p"})


async def status(box: Inside, script: str, user: str = "user") -> tuple[int | None, str]:
    process = await box.spawn("/bin/bash", "-c", f"exec 2>&1; {script}", user=user, env=ENVIRONMENT)
    ended, output = await box.ended(process)
    return ended.code, output


async def until_in_foreground(box: Inside, command: str) -> None:
    """Wait until this command is what the keys of its terminal act upon."""
    script = f"until ps -eo stat=,args= | grep -q '^S[^ ]*+ *{command}'; do :; done"
    await asyncio.wait_for(box.run(script), 5)


class TestUsers:
    async def test_root_with_its_rights(self, box: Inside) -> None:
        found = await run(box, "sudo sh -c 'id -u; id -G; grep CapEff /proc/self/status | cut -f2; umask'")
        assert found == "0\n0\n00000000000000e3\n0022"

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ("-u other", "1001:1001"),
            ("--user=other", "1001:1001"),
            ("-u '#1001'", "1001:1001"),
            ("-g extra", "1000:2000"),
            ("-u other -g extra", "1001:2000"),
            ("-nEHSu root --", "0:0"),
        ],
    )
    async def test_others(self, box: Inside, options: str, expected: str) -> None:
        assert await run(box, f"sudo {options} sh -c 'echo $(id -u):$(id -g)'") == expected

    async def test_who_may_not(self, box: Inside) -> None:
        for arguments in ("-n id", "-v", "-l", "-u user id"):
            code, output = await status(box, f"sudo {arguments}", "other")
            assert (code, output) == (1, "sudo: this user may not run commands as another user in this sandbox\n")
        assert (await status(box, "sudo true", "root"))[0] == 0

    async def test_nobody_becomes_root_without_process_1(self, box: Inside) -> None:
        await box.run("cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id", "root")
        assert await box.run("/tmp/id -u") == "1000"


class TestCommand:
    async def test_status_directory_and_stdio(self, box: Inside) -> None:
        assert (await status(box, "sudo sh -c 'exit 7'"))[0] == 7
        assert (await status(box, "sudo sh -c 'kill -9 $$'"))[0] == 128 + 9
        assert await run(box, "cd /usr/bin; sudo pwd; sudo -D /etc pwd") == "/usr/bin\n/etc"
        assert await run(box, "echo in | sudo cat | cat; sudo sh -c 'echo err >&2' 2>/dev/null") == "in"
        assert await run(box, "echo x | sudo tee /etc/new > /dev/null; cat /etc/new") == "x"

    async def test_environment(self, box: Inside) -> None:
        found = (await run(box, "sudo A=1 env | sort")).splitlines()
        assert found == [
            "A=1",
            "HOME=/root",
            "LANG=C.UTF-8",
            "LOGNAME=root",
            "MAIL=/var/mail/root",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SHELL=/bin/sh",
            "SUDO_COMMAND=env",
            "SUDO_GID=1000",
            "SUDO_UID=1000",
            "SUDO_USER=user",
            "USER=root",
            "https_proxy=p",
        ]

    async def test_keeping_the_environment(self, box: Inside) -> None:
        assert await run(box, "sudo -E sh -c 'echo $FOO $HOME $USER'") == "bar /home/user root"
        assert await run(box, "sudo -EH sh -c 'echo $FOO $HOME'") == "bar /root"
        assert await run(box, "sudo --preserve-env=X,FOO sh -c 'echo $FOO $HOME'") == "bar /root"

    async def test_shells(self, box: Inside) -> None:
        assert await run(box, "sudo -i pwd; sudo -iu other 'pwd' | cat") == "/root\n/"
        assert await run(box, """sudo -s printf '<%s>' 'a b' '$HOME' "it's" ';' ''""") == "<a b></root><it's><;><>"
        assert await run(box, "sudo -i echo '$0'") == "-sh"

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            ("no-such-program", 1, "sudo: no-such-program: command not found"),
            ("/etc/passwd", 1, "sudo: /etc/passwd: Permission denied"),
            ("-u nobody-at-all id", 1, "sudo: unknown user nobody-at-all"),
            ("-g nobody-at-all id", 1, "sudo: unknown user or group"),
            ("-D /no/where id", 1, "sudo: the command cannot be started: No such file or directory"),
            ("-Z id", 1, "unrecognized option: Z"),
            ("-i -s", 1, "cannot be used together"),
            ("", 1, "usage: sudo"),
            ("--help", 0, "usage: sudo"),
            ("-V", 0, "cube-init sudo"),
            ("-l", 0, "(ALL : ALL) NOPASSWD: ALL"),
            ("-l id -u", 0, "id -u"),
            ("-v", 0, ""),
            ("-k", 0, ""),
            ("-K", 0, ""),
            ("-k id -u", 0, "0"),
        ],
    )
    async def test_answers(self, box: Inside, arguments: str, code: int, text: str) -> None:
        found, output = await status(box, f"sudo {arguments}")
        assert (found, text in output) == (code, True), output

    async def test_long_arguments(self, box: Inside) -> None:
        assert await run(box, "sudo sh -c 'echo $#' sh $(seq 20000)") == "20000"

    async def test_closed_stdio(self, box: Inside) -> None:
        assert (await status(box, "sudo sh -c 'test -e /dev/fd/1' <&- >&- 2>&-"))[0] == 0

    async def test_background(self, box: Inside) -> None:
        await run(box, "sudo -b sh -c 'sleep 0.05; touch /tmp/done' > /dev/null 2>&1")
        await asyncio.wait_for(box.run("until test -e /tmp/done; do :; done"), 5)


class TestSignals:
    @pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1"])
    async def test_they_are_passed_on(self, box: Inside, name: str) -> None:
        number = signal.Signals[f"SIG{name}"]
        command = ("sudo", "bash", "-c", f"trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.01; done")
        process = await box.spawn(*command, env=ENVIRONMENT)
        await asyncio.to_thread(read_until, process.stdout, "ready")
        await process.signal(number)
        assert await box.ended(process) == (ExitStatus(9), "got\n")

    async def test_its_death_is_that_of_the_command(self, box: Inside) -> None:
        process = await box.spawn("sudo", "bash", "-c", "echo ready; sleep 4713 & wait", env=ENVIRONMENT)
        await asyncio.to_thread(read_until, process.stdout, "ready")
        await process.signal(signal.SIGKILL)
        assert (await box.ended(process))[0] == ExitStatus(None, signal.SIGKILL)
        await asyncio.wait_for(box.run("while pgrep -fx 'sleep 4713' > /dev/null; do :; done"), 5)

    async def test_stopping_and_going_on(self, box: Inside) -> None:
        process = await box.spawn("sudo", "bash", "-c", "echo ready; sleep 4714", env=ENVIRONMENT)
        await asyncio.to_thread(read_until, process.stdout, "ready")
        await process.signal(signal.SIGTSTP)
        state = f"ps -o stat= -p {process.pid} | cut -c1"
        await asyncio.wait_for(box.run(f"until test $({state}) = T; do :; done"), 5)
        await process.signal(signal.SIGCONT)
        await asyncio.wait_for(box.run(f"until test $({state}) = S; do :; done"), 5)
        await process.signal(signal.SIGTERM)
        assert (await box.ended(process))[0] == ExitStatus(128 + signal.SIGTERM)


class TestTerminal:
    async def test_an_interactive_shell_with_job_control(self, box: Inside) -> None:
        process = await box.spawn("/bin/bash", "--norc", "-i", env=ENVIRONMENT | {"PS1": "user> "}, terminal=TERMINAL)
        terminal = process.terminal
        assert terminal is not None

        async def say(line: str, expected: str) -> None:
            os.write(terminal, line.encode())
            await asyncio.to_thread(read_until, terminal, expected)

        await say("sudo PS1='ro''ot> ' bash --norc -i\n", "root> ")
        await say("echo $(id -u; stty size; tty)\n", "0 30 100 /dev/pts/1")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        await asyncio.wait_for(box.run("until test \"$(stty size < /dev/pts/1)\" = '50 120'; do :; done", "root"), 5)
        os.write(terminal, b"sleep 4716\n")
        await until_in_foreground(box, "sleep 4716")
        await say("\x1a", "Stopped")
        os.write(terminal, b"fg\n")
        await until_in_foreground(box, "sleep 4716")
        await say("\x03", "root> ")
        await say("echo alive $? $((40 + 2))\n", "alive 130 42")
        await say("exit 5\n", "user> ")
        await say("echo code $? $(stty -a | grep -wo -e -*isig)\n", "code 5 isig")
        os.write(terminal, b"exit\n")
        assert (await box.ended(process))[0] == ExitStatus(0)

    async def test_output_of_a_short_command_is_complete(self, box: Inside) -> None:
        for _ in range(20):
            process = await box.spawn("sudo", "seq", "200", env=ENVIRONMENT, terminal=TERMINAL)
            assert await box.ended(process) == (ExitStatus(0), "".join(f"{n}\r\n" for n in range(1, 201)))

    async def test_a_pipe_beside_the_terminal_stays_one(self, box: Inside) -> None:
        script = (
            "sudo sh -c 'test -t 0; echo $?; test -t 1; echo $?' | cat; sudo sh -c 'test -t 2; echo $?' 2>/dev/null"
        )
        process = await box.spawn("/bin/bash", "-c", script, env=ENVIRONMENT, terminal=TERMINAL)
        assert await box.ended(process) == (ExitStatus(0), "0\r\n1\r\n1\r\n")

    async def test_stopped_by_its_terminal_and_continued(self, box: Inside) -> None:
        process = await box.spawn("/bin/bash", "--norc", "-i", env=ENVIRONMENT | {"PS1": "user> "}, terminal=TERMINAL)
        terminal = process.terminal
        assert terminal is not None
        await asyncio.to_thread(read_until, terminal, "user> ")
        os.write(terminal, b"sudo sleep 4715\n")
        await until_in_foreground(box, "sleep 4715")
        os.write(terminal, b"\x1a")
        assert "Stopped" in await asyncio.to_thread(read_until, terminal, "user> ")
        os.write(terminal, b"fg\n")
        await until_in_foreground(box, "sleep 4715")
        os.write(terminal, b"\x03")
        found = await asyncio.to_thread(read_until, terminal, "user> ")
        os.write(terminal, b"echo code $?; exit\n")
        found += (await box.ended(process))[1]
        assert f"code {128 + signal.SIGINT}" in found


class TestHostility:
    async def test_nonsense_on_its_socket(self, box: Inside) -> None:
        script = """
            use Socket;
            my @nonsense = ("\\1\\0\\0\\x80" . "\\0" x 12, "\\1\\0\\0\\0" . "\\xff" x 60000);
            for my $what (@nonsense, "", "x", "\\1\\0\\0\\0", "\\1\\0\\0\\0\\0\\0\\0\\0") {
                socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die;
                connect($s, pack("S a*", AF_UNIX, "\\0cube-sudo")) or die "connect: $!";
                send($s, $what, 0);
                close($s);
            }
            print "done";"""
        await box.write("nonsense.pl", script.encode())
        assert await box.run("perl nonsense.pl") == "done"
        assert await run(box, "sudo id -u") == "0"

    async def test_connections_that_say_nothing_hold_up_nobody(self, box: Inside) -> None:
        script = """
            use Socket;
            my @all;
            for (1..100) {
                socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die;
                connect($s, pack("S a*", AF_UNIX, "\\0cube-sudo")) or die "connect: $!";
                push @all, $s;
            }
            print `sudo id -u`;"""
        await box.write("silent.pl", script.encode())
        assert await run(box, "perl silent.pl") == "0"
