"""The only door to another user: ``sudo`` without set-uid, which asks process 1."""

from __future__ import annotations

import json

import pytest

from security.ground import Box

#: A user whom nobody has permitted anything.
STRANGER = "33"

#: Speaks to process 1 without the program; the format is that of native/cube-init/sudo.h.
CLIENT = """
def text(value): return struct.pack('<I', len(value)) + value
def message(user=b'root', argv=(b'id', b'-u'), kind=1):
    who = text(bytes(60)) + text(user) + text(b'') + text(b'/') + text(argv[0])
    what = struct.pack('<I', len(argv)) + b''.join(map(text, argv)) + struct.pack('<I', 0)
    return struct.pack('<5I', kind, 0, 0, 80, 24) + who + what
def connect():
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(10)
    client.connect('\\0cube-sudo')
    return client
def descriptors(): return [os.open('/', os.O_PATH), 0, 1, 2]
def answer(client):
    for _ in range(2):  # what was sent in vain is reported as a reset before the answer
        try: return struct.unpack('<I', client.recv(4096)[:4])[0]
        except (OSError, struct.error): pass
    return 0
"""
REFUSED = 3


def test_the_permitted_user_becomes_root_and_no_more(sandbox: Box) -> None:
    """So that the rows below mean something: it works, within the same bound, filter and no_new_privs."""
    assert sandbox.shell("sudo id -u", "user") == "0"
    lines = sandbox.shell("sudo grep -E 'CapPrm|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status", "user").splitlines()
    own = sandbox.shell("grep -E 'CapPrm|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status").splitlines()
    assert lines == own


@pytest.mark.parametrize("command", ["sudo id", "sudo -u user id", "sudo -l", "sudo -v", "sudo -s", "sudo -u 33 id"])
def test_a_user_without_permission_is_refused(sandbox: Box, command: str) -> None:
    """By the id that the kernel attests, whatever is asked for, even to become oneself."""
    done = sandbox.run(command, user=STRANGER)
    assert done.exit == 1
    assert "uid=" not in done.stdout


def test_speaking_the_protocol_oneself_changes_nothing(sandbox: Box) -> None:
    """The client program has no rights: who leaves it out has none either."""
    assert sandbox.probe(f"""{CLIENT}
client = connect()
try: socket.send_fds(client, [message()], descriptors())
except OSError: pass
tell(answer(client))
""", STRANGER) == REFUSED  # fmt: skip


def test_forged_credentials_are_refused(sandbox: Box) -> None:
    """SCM_CREDENTIALS that say "root" (CVE-2014-... of daemons that believe them): the kernel refuses to send them, and
    process 1 asks for SO_PEERCRED instead."""
    assert sandbox.probe(f"""{CLIENT}
client = connect()
def forge():
    client.sendmsg([message()], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack('<3I', 1, 0, 0))])
tell([outcome(forge) in ('EPERM', 'EPIPE', 'ECONNRESET'), answer(client)])
""", STRANGER) == [True, REFUSED]  # fmt: skip


def test_a_connection_keeps_the_rights_it_was_made_with(sandbox: Box) -> None:
    """One that root made and handed to a stranger is root's gift. The other way round: one that the stranger made stays
    refused, also when root sends on it."""
    assert sandbox.probe(f"""{CLIENT}
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
if os.fork() == 0:
    os.setgroups([]); os.setresgid(33, 33, 33); os.setresuid(33, 33, 33)
    strangers = connect()
    socket.send_fds(theirs, [b'x'], [strangers.fileno()])
    os._exit(0)
client = socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0])
client.settimeout(10)
try: socket.send_fds(client, [message()], descriptors())
except OSError: pass
tell(answer(client))
""") == REFUSED  # fmt: skip


@pytest.mark.parametrize(
    "who", ["#-1", "#4294967295", "-1", "4294967295", "#", "", "nobody-has-this-name", "root\n", "0x0"]
)
def test_odd_users(sandbox: Box, who: str) -> None:
    """CVE-2019-14287: `sudo -u#-1` was root, for setresuid(-1) changes nothing."""
    done = sandbox.run("sudo", "-u", who, "id", "-u", user="user")
    assert done.exit != 0, done
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("-R", "/tmp", "id"),  # CVE-2025-32463: libraries out of the caller's root
        ("--chroot=/tmp", "id"),
        ("-h", "other-host", "id"),  # CVE-2025-32462
        ("--host=other", "id"),
        ("-C", "3", "id"),
        ("-e", "/etc/shadow"),
        ("-T", "1", "id"),
        ("--", ""),
    ],
)
def test_options_that_we_do_not_have_run_nothing(sandbox: Box, arguments: tuple[str, ...]) -> None:
    """An unknown option must not be skipped, and what follows not be run."""
    done = sandbox.run("sudo", *arguments, user="user")
    assert "uid=" not in done.stdout
    assert done.exit >= 0, done


@pytest.mark.parametrize("name", ["sudoedit", "cube-init", "launch", "sudo-launch", "-sudo"])
def test_the_program_under_another_name_gives_nothing(sandbox: Box, name: str) -> None:
    """The program has three faces, told apart by name: none of the others does anything for code in a sandbox.
    CVE-2021-3156 began with calling sudo `sudoedit`."""
    done = sandbox.run(f"exec -a {name} /usr/bin/sudo launch 0 < /dev/null", user=STRANGER)
    assert 0 < done.exit < 128, done
    done = sandbox.run(f"exec -a {name} /usr/bin/sudo -s 'x\\' $(printf '\\\\ %.0s' $(seq 5000))", user=STRANGER)
    assert 0 < done.exit < 128, done


def test_without_any_argument_at_all(sandbox: Box) -> None:
    """CVE-2021-4034 (pkexec): execve with an empty argv; argv[0] is then the environment."""
    assert sandbox.probe("""
pid = os.fork()
if pid == 0:
    environment = (ctypes.c_char_p * 3)(b'launch', b'LD_PRELOAD=/tmp/x.so', None)
    call('execve', b'/usr/bin/sudo', (ctypes.c_char_p * 1)(None), environment)
tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""", STRANGER) > 0  # fmt: skip


def test_the_environment_of_the_caller_does_not_come_along(sandbox: Box) -> None:
    """LD_PRELOAD, PYTHONPATH, BASH_ENV, IFS and functions change what a command of another user does."""
    poison = {
        "LD_PRELOAD": "/tmp/evil.so",
        "LD_LIBRARY_PATH": "/tmp",
        "PYTHONPATH": "/tmp",
        "PERL5LIB": "/tmp",
        "BASH_ENV": "/tmp/evil",
        "ENV": "/tmp/evil",
        "IFS": "x",
        "BASH_FUNC_id%%": "() { echo evil; }",
        "PATH": "/tmp/evil:/usr/bin",
        "HOME": "/tmp/evil",
        "SHELL": "/tmp/evil",
        "SUDO_COMMAND": "evil",
    }
    done = sandbox.run("/usr/bin/sudo", "/usr/bin/env", user="user", env=poison)
    assert done.exit == 0, done
    assert "evil" not in done.stdout.replace("SUDO_COMMAND=/usr/bin/env", "")
    assert not {"LD_LIBRARY_PATH", "PYTHONPATH", "PERL5LIB", "IFS"} & {
        line.partition("=")[0] for line in done.stdout.splitlines()
    }


def test_nobody_can_take_the_place_of_process_1(sandbox: Box) -> None:
    """Who listens at the address in its stead gets the descriptors of everybody who uses sudo."""
    assert sandbox.probe("""
def bind():
    fake = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fake.bind('\\0cube-sudo')
tell(outcome(bind))
""") == "EADDRINUSE"  # fmt: skip


MALFORMED = {
    "empty": "b''",
    "half a header": "b'\\1'",
    "no body": "struct.pack('<II', 1, 0)",
    "lengths that lie": "struct.pack('<II', 1, 0) + b'\\xff' * 400",
    "unknown kind": "b'\\xff' * 8",
    "body elsewhere, endless": "struct.pack('<IIQ', 0x80000001, 0, 2**64 - 1)",
    "body elsewhere, in a pipe": "struct.pack('<IIQ', 0x80000001, 0, 4096)",
    "a million arguments": "message()[:-8] + struct.pack('<I', 1 << 20)",
    "zeros": "struct.pack('<II', 1, 0) + bytes(60000)",
    "a signal first": "struct.pack('<III', 2, 0, 9)",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_harm_nobody(sandbox: Box, data: str) -> None:
    """Lengths that lie, with and without descriptors, from a permitted user: process 1 goes on."""
    sandbox.probe(f"""{CLIENT}
for count in (0, 1, 4, 40):
    client = connect()
    client.settimeout(0.2)
    outcome(socket.send_fds, client, [{data}], [0] * count)
    outcome(answer, client)
tell(0)
""", "user")  # fmt: skip
    assert sandbox.shell("sudo id -u", "user") == "0"


def test_a_flood_of_connections_does_not_keep_process_1_from_the_host(own_sandbox: Box) -> None:
    """Connections of somebody without any permission, as fast as four processes make them: the host is served still."""
    with own_sandbox.background(f"""{CLIENT}
for _ in range(4):
    if os.fork() == 0:
        while True:
            try: connect().close()
            except OSError: pass
tell(1)
sys.stdin.readline()
os.killpg(0, 9)
""", STRANGER):  # fmt: skip
        for _ in range(20):
            own_sandbox.call(own_sandbox.guest.ping(), seconds=10)
        assert own_sandbox.run("/bin/echo", "alive", seconds=10).stdout == "alive\n"


def test_a_client_that_only_connects_holds_no_one_up(sandbox: Box) -> None:
    """Connections that say nothing: others are served, and the waiting helpers end by themselves or with the client."""
    with sandbox.background(f"""{CLIENT}
held = [connect() for _ in range(40)]
tell(1)
sys.stdin.read()
""", "user"):  # fmt: skip
        assert sandbox.shell("sudo id -u", "user") == "0"
    sandbox.call(sandbox.guest.ping())


@pytest.mark.parametrize("user", ["root", "user"])
def test_the_monitor_of_a_command_cannot_be_taken_over(sandbox: Box, user: str) -> None:
    """Beside each command under sudo stands a process of root that is a copy of process 1: as closed as that one."""
    with sandbox.background("""
import subprocess
subprocess.Popen(['sudo', 'sleep', '60'])
monitors = []
while not monitors:
    for pid in os.listdir('/proc'):
        if not pid.isdecimal() or pid == '1': continue
        try:
            if Path(f'/proc/{pid}/comm').read_text() == 'cube-init\\n': monitors.append(int(pid))
        except OSError: pass
tell(monitors)
sys.stdin.read()
""", "user") as running:  # fmt: skip
        for pid in json.loads(running.said):
            assert sandbox.probe(f"""
tell([attempt('ptrace', 16, {pid}, 0, 0), outcome(os.listdir, '/proc/{pid}/fd'), outcome(open, '/proc/{pid}/mem', 'rb'),
      attempt('pidfd_getfd', os.pidfd_open({pid}), 3, 0)])
""", user) == ["EPERM", "EACCES", "EACCES", "EPERM"]  # fmt: skip
