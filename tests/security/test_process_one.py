"""The trusted program among the hostile ones: process 1, its helpers, and what they might leave lying about."""

from __future__ import annotations

import hashlib

import pytest

from cube.envd.guest import TerminalSize
from cube.model.errors import CubeError
from security.ground import Box

BOTH = pytest.mark.parametrize("user", ["root", "user"])
PRIVATE = ("exe", "root", "cwd", "environ", "mem", "maps", "smaps", "auxv", "io", "stack", "syscall", "fd", "map_files")


@BOTH
@pytest.mark.parametrize("name", PRIVATE)
def test_process_1_shows_nothing(sandbox: Box, name: str, user: str) -> None:
    """/proc/1/root and cwd are ways to another root, fd to the host's sockets, mem to its memory, exe to its program
    (CVE-2019-5736, CVE-2024-21626): it is not dumpable, so all of them are closed, to root too."""
    assert sandbox.probe(f"""
path = '/proc/1/{name}'
def look():
    if os.path.islink(path): os.readlink(path)
    elif os.path.isdir(path): os.listdir(path)
    else:
        with open(path, 'rb') as file: file.read(1)
tell([outcome(look), outcome(os.open, path + '/0', os.O_RDONLY), outcome(os.open, path + '/.', os.O_RDONLY)])
""", user)[0] in ("EACCES", "EPERM", "ENOENT")  # fmt: skip


@BOTH
def test_process_1_cannot_be_written_to(sandbox: Box, user: str) -> None:
    """Its memory, its OOM score (to make it the victim or immune) and its ids."""
    outcomes = sandbox.probe("""
paths = ['mem', 'oom_score_adj', 'clear_refs', 'coredump_filter', 'timerslack_ns', 'attr/current', 'uid_map']
def write(path):
    with open(path, 'w') as file: file.write('0')
tell([outcome(write, '/proc/1/' + path) for path in paths])
""", user)  # fmt: skip
    assert "ok" not in outcomes, outcomes


@BOTH
def test_the_limits_of_process_1_cannot_be_changed(own_sandbox: Box, user: str) -> None:
    """prlimit asks for equal ids only, dumpable or not: root could take process 1 all of its descriptors, and the
    sandbox would be there without answering."""
    assert own_sandbox.probe("tell(attempt('prlimit64', 1, 7, struct.pack('<QQ', 1, 1), 0))", user) == "EPERM"
    own_sandbox.call(own_sandbox.guest.ping())


@BOTH
def test_process_1_cannot_be_killed(sandbox: Box, user: str) -> None:
    """Every signal, from inside: process 1 ends only by the host, and the sandbox answers afterwards."""
    sandbox.probe("""
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
tell(0)
""", user)  # fmt: skip
    sandbox.call(sandbox.guest.ping())


OPEN = "tell([fd for fd in range(4096) if outcome(os.fstat, fd) == 'ok'])"


@BOTH
def test_spawned_processes_have_only_the_standard_descriptors(sandbox: Box, user: str) -> None:
    """A descriptor of the host's that leaks into a process is the way out of CVE-2024-21626 and of CVE-2016-9962."""
    assert sandbox.probe(OPEN, user) == [0, 1, 2]
    assert sandbox.probe(OPEN, user, stdin=True) == [0, 1, 2]


@BOTH
def test_processes_on_a_terminal_have_only_the_standard_descriptors(sandbox: Box, user: str) -> None:
    """The same where a terminal is made, whose leader is the host's."""
    assert sandbox.probe(OPEN, user, terminal=TerminalSize(80, 24)) == [0, 1, 2]


def test_sudo_leaves_no_descriptor_open(sandbox: Box) -> None:
    """The same for a command that process 1 starts on behalf of sudo."""
    listing = sandbox.shell("sudo /bin/ls -l /proc/self/fd", "user")
    targets = [line.rpartition(" -> ")[2] for line in listing.splitlines() if " -> " in line]
    assert all(target.startswith(("pipe:", "/dev/null", "/proc/")) for target in targets), listing
    assert len(targets) == 4


def test_no_process_inherits_environment_of_the_host(sandbox: Box) -> None:
    """The service's environment holds its secrets: none of it comes inside."""
    inside = set(sandbox.run("/usr/bin/env", "--").stdout.splitlines())
    names = {line.partition("=")[0] for line in inside}
    assert names == {"PATH", "HOME", "USER", "LOGNAME", "SHELL"}


HANDLES = [f"/proc/self/fd/{number}" for number in range(3, 24)]
ROOTS = ("/proc/1/root", "/proc/1/cwd", "/proc/self/fd", "/proc/1/fd/3/../../..", "/proc/thread-self/fd/7/../../../..")


@pytest.mark.parametrize("user", ["root", "user"])
def test_no_working_directory_is_outside(sandbox: Box, user: str) -> None:
    """CVE-2024-21626 (Leaky Vessels): a working directory of /proc/self/fd/N is a directory of the host that the
    runtime has open at that moment. Tried for all numbers, as cwd of a process and through a planted link."""
    sandbox.shell("rm -f /tmp/way; ln -s /proc/self/fd /tmp/way; chmod 1777 /tmp")
    for cwd in (*HANDLES, *ROOTS, "/tmp/way/5", "/tmp/way/7/../.."):
        try:
            found = sandbox.run("/bin/ls", "-di", ".", "/", user=user, cwd=cwd)
        except CubeError:
            continue
        assert "(unreachable)" not in sandbox.run("pwd -P", user=user, cwd=cwd).stdout
        assert "cube-init" not in found.stdout


@pytest.mark.parametrize("path", [f"/proc/self/fd/{number}" for number in range(3, 12)])
def test_no_file_request_reaches_the_helper_s_descriptors(sandbox: Box, path: str) -> None:
    """The same through file requests, whose helper has the control socket open: what is no regular file is refused,
    and nothing can be moved, removed or listed there."""
    for work in (
        lambda: sandbox.guest.open_read(path, "root"),
        lambda: sandbox.guest.open_write(path, "root"),
        lambda: sandbox.guest.list_dir(path, "root", 1),
        lambda: sandbox.guest.move(path, "/tmp/moved", "root"),
    ):
        with pytest.raises(CubeError):
            sandbox.call(work())
    sandbox.call(sandbox.guest.ping())


def test_the_program_of_process_1_cannot_be_overwritten(sandbox: Box) -> None:
    """CVE-2019-5736: /proc/self/exe of a process that the runtime starts is the runtime's program on the host. Tried
    through process 1, through sudo (the same program) and its mount, for writing, removing, renaming and truncating."""
    program = sandbox.ground.settings.run_dir / "cube-init"
    before = hashlib.sha256(program.read_bytes()).digest()
    outcomes = sandbox.probe("""
def write(path): os.close(os.open(path, os.O_WRONLY))
def through_sudo():
    # sudo waits for its command: while it does, its exe is the program.
    pid = os.spawnv(os.P_NOWAIT, '/usr/bin/sudo', ['sudo', 'sleep', '3'])
    while b'sudo' not in Path(f'/proc/{pid}/cmdline').read_bytes(): pass
    try: write(f'/proc/{pid}/exe')
    finally: os.kill(pid, 9)
sudo = '/usr/bin/sudo'
tell([outcome(write, '/proc/1/exe'), outcome(through_sudo), outcome(write, sudo), outcome(os.truncate, sudo, 0),
      outcome(os.unlink, sudo), outcome(os.rename, '/bin/true', sudo), outcome(os.chmod, sudo, 0o4777),
      outcome(os.chown, sudo, 0, 0), outcome(os.utime, sudo), outcome(os.setxattr, sudo, 'user.x', b'x'),
      outcome(os.link, sudo, '/tmp/sudo')])
""")  # fmt: skip
    assert "ok" not in outcomes, outcomes
    assert hashlib.sha256(program.read_bytes()).digest() == before


@pytest.mark.parametrize("interpreter", ["/proc/self/exe", "/proc/1/exe", "/usr/bin/sudo"])
def test_a_script_cannot_have_the_runtime_as_interpreter(sandbox: Box, interpreter: str) -> None:
    """The first half of CVE-2019-5736: `#!/proc/self/exe` makes the runtime execute itself inside the container."""
    sandbox.write("/tmp/script", f"#!{interpreter}\n".encode(), mode=0o755)
    try:
        sandbox.run("/tmp/script", "--version", user="user")
    except CubeError:
        return
    sandbox.call(sandbox.guest.ping())


def test_helpers_cannot_be_traced_at_any_moment(own_sandbox: Box) -> None:
    """Process 1 forks a helper for every request; a program that waits for new processes must not get hold of one
    before it has become what it will be: neither by ptrace, nor by opening its memory or descriptors."""
    own_sandbox.shell("mkdir -p /tmp/many && cd /tmp/many && touch $(seq 200)")
    with own_sandbox.background("""
import threading
caught = []
stop = False
def hunt():
    while not stop:
        for entry in os.listdir('/proc'):
            if entry.isdecimal() and int(entry) not in (1, os.getpid()):
                for way in (by_descriptors, by_ptrace): outcome(way, int(entry))
def is_ours(pid):
    return 'cube' in Path(f'/proc/{pid}/comm').read_text()
def by_descriptors(pid):
    if not is_ours(pid): return
    os.listdir(f'/proc/{pid}/fd')
    # Else it has executed a program meanwhile, and is what anybody may look at.
    if is_ours(pid): caught.append('descriptors')
def by_ptrace(pid):
    if not is_ours(pid): return
    call('ptrace', 16, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    if is_ours(pid): caught.append('memory')
    call('ptrace', 17, pid, 0, 0)
threading.Thread(target=hunt).start()
tell(1)
sys.stdin.readline()
stop = True
tell(caught)
""") as hunter:  # fmt: skip
        for _ in range(150):
            own_sandbox.call(own_sandbox.guest.list_dir("/tmp/many", "root", 1))
            own_sandbox.call(own_sandbox.guest.stat("/etc/passwd", "user"))
        assert hunter.ask() == []
