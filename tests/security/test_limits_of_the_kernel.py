"""What the kernel counts for the whole machine or per user: one sandbox uses up its share, and the host and another
sandbox must not notice."""

from __future__ import annotations

import ctypes
import json
import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cube.model.errors import CubeError
from security.ground import Box, Ground


@pytest.fixture(scope="module")
def neighbour(ground: Ground) -> Iterator[Box]:
    """Another sandbox, which goes on with its work."""
    with ground.sandbox() as box:
        yield box


@contextmanager
def exhausted(box: Box, take: str, most: int = 1 << 20) -> Iterator[int]:
    """Take something again and again until it is refused; it is held during the block. Gives how many there were."""
    with box.background(f"""
import pty, resource
resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
held = []
def take(number):
    {take}
reason = 'ok'
while len(held) < {most} and reason == 'ok':
    reason = outcome(lambda: held.append(take(len(held))))
tell(len(held))
sys.stdin.read()
""") as process:  # fmt: skip
        yield json.loads(process.said)


def test_inotify_instances(own_sandbox: Box, neighbour: Box) -> None:
    """fs.inotify.max_user_instances is 128 per user, and a user namespace is charged to its owner: were that root, one
    sandbox could stop `tail -f`, systemd and every other sandbox's file watching."""
    with exhausted(own_sandbox, "return call('inotify_init1', 0)") as count:
        assert count <= int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
        assert neighbour.probe("tell(len([call('inotify_init1', 0) for _ in range(16)]))") == 16
        fd = ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC)
        assert fd >= 0
        os.close(fd)


def test_inotify_watches_are_charged_to_the_sandbox(own_sandbox: Box, neighbour: Box) -> None:
    """The same for watches: 20,000 of one sandbox leave the neighbour all of its own."""
    own_sandbox.probe("""
os.makedirs('/dev/shm/w')
tell(len([os.mkdir(f'/dev/shm/w/{number}') for number in range(20000)]))
""")  # fmt: skip
    take = "return call('inotify_add_watch', held and watch or start(), f'/dev/shm/w/{number}'.encode(), 2)"
    start = "def start():\n    global watch\n    watch = call('inotify_init1', 0)\n    return watch\n"
    with own_sandbox.background(f"""
{start}
held = []
for number in range(20000):
    {take.removeprefix("return ")}
    held.append(number)
tell(len(held))
sys.stdin.read()
"""):  # fmt: skip
        assert neighbour.probe(f"""
{start}
start()
tell(len([call('inotify_add_watch', watch, f'/proc/{{number}}'.encode(), 2) for number in ('self', 'sys', 'net')]))
""") == 3  # fmt: skip


def test_terminals(own_sandbox: Box, neighbour: Box) -> None:
    """kernel.pty.max is for the machine: without its own limit one sandbox could take all but the host's part."""
    with exhausted(own_sandbox, "return pty.openpty()") as count:
        assert 64 <= count <= 256
        assert neighbour.probe("import pty; tell(len([pty.openpty() for _ in range(16)]))") == 16
        for fd in pty.openpty():
            os.close(fd)


def test_message_queues(own_sandbox: Box, neighbour: Box) -> None:
    """RLIMIT_MSGQUEUE is counted per user: 819,200 bytes by default, nine queues of the default size."""
    make = "call('mq_open', f'q{number}'.encode(), 0o102, 0o600, 0)"
    with exhausted(own_sandbox, f"return {make}") as count:
        assert count < 256
        assert neighbour.probe(f"number = 0\ntell(outcome(lambda: {make}))") == "ok"


def test_pending_signals(own_sandbox: Box, neighbour: Box) -> None:
    """RLIMIT_SIGPENDING is counted per user; timers and sigqueue of everybody would fail."""
    setup = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])\n"
    take = "call('rt_sigqueueinfo', os.getpid(), 34, struct.pack('<iii', 34, 0, -1) + bytes(116))"
    with exhausted(own_sandbox, f"number or {setup.strip()}; return {take}", most=300_000) as count:
        assert count < 300_000
        assert neighbour.probe(f"{setup}tell(outcome(lambda: {take}))") == "ok"
        timer = ctypes.c_void_p()
        assert ctypes.CDLL(None).timer_create(0, None, ctypes.byref(timer)) == 0
        ctypes.CDLL(None).timer_delete(timer)


def test_shared_memory_of_system_v_is_private(own_sandbox: Box, neighbour: Box) -> None:
    """Same key, other segment: an IPC namespace each, none of them the host's."""
    own_sandbox.probe("tell(call('shmget', 4711, 4096, 0o1666))")
    assert neighbour.probe("tell(attempt('shmget', 4711, 4096, 0))") == "ENOENT"
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.shmget(4711, 4096, 0) == -1


def test_message_queues_are_private(own_sandbox: Box, neighbour: Box) -> None:
    """The same for POSIX queues, by name."""
    own_sandbox.probe("tell(call('mq_open', b'ours', 0o102, 0o666, 0))")
    assert own_sandbox.shell("ls /dev/mqueue") == "ours"
    assert neighbour.probe("tell(attempt('mq_open', b'ours', 2, 0, 0))") == "ENOENT"


def test_open_files_of_one_process(own_sandbox: Box) -> None:
    """RLIMIT_NOFILE holds and cannot be raised: no CAP_SYS_RESOURCE."""
    limit = own_sandbox.resources.open_files
    with exhausted(own_sandbox, "return os.open('/dev/null', 0)") as count:
        assert limit - 16 < count < limit
    more = f"struct.pack('<QQ', {limit + 1}, {limit + 1})"
    assert own_sandbox.probe(f"tell(attempt('prlimit64', 0, 7, {more}, 0))") == "EPERM"


def test_open_files_of_the_machine_suffice_for_all(ground: Ground) -> None:
    """fs.file-max is for the machine and all but its administrator (Envoy included) get ENFILE beyond it. Memory bounds
    what a sandbox can have open (some 300 bytes each); the table must be larger than that."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert int(Path("/proc/sys/fs/file-max").read_text()) > memory // 256


def test_process_numbers_of_the_machine_suffice_for_all(ground: Ground) -> None:
    """kernel.pid_max is 32,768 on small machines: sixteen sandboxes with the default limit of 2,048 would use it up."""
    assert int(Path("/proc/sys/kernel/pid_max").read_text()) >= 1 << 22


def test_huge_arguments_and_environments(own_sandbox: Box) -> None:
    """Beyond what execve takes, and beyond what the protocol takes: an error for the client, nothing for the host."""
    for size in (3 << 20, 17 << 20):
        with pytest.raises(CubeError):
            own_sandbox.run("/bin/echo", "x" * size)
    with pytest.raises(CubeError):
        own_sandbox.run("/bin/true", "", env={"X": "y" * (18 << 20)})
    with pytest.raises(CubeError):
        own_sandbox.run("/bin/true", *["a"] * 3_000_000)
    assert own_sandbox.shell("echo alive") == "alive"


def test_pipes_and_their_memory(own_sandbox: Box, neighbour: Box) -> None:
    """fs.pipe-user-pages-soft is per user of the host: pipes of the neighbour keep their size."""
    with exhausted(
        own_sandbox,
        "pair = os.pipe(); os.set_blocking(pair[1], False); return os.write(pair[1], bytes(65536)) and pair",
    ):
        assert neighbour.probe("pair = os.pipe(); tell(call('fcntl', pair[0], 1032))") == 65536


def test_file_locks_and_leases_are_seen_by_nobody_else(own_sandbox: Box, neighbour: Box) -> None:
    """Files of the shared image are other inodes in every sandbox: a lock on one holds nobody up elsewhere."""
    take = "import fcntl; fcntl.flock(os.open('/etc/passwd', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with own_sandbox.background(f"{take}\ntell(1)\nsys.stdin.read()"):
        assert own_sandbox.probe(f"def lock():\n    {take}\ntell(outcome(lock))") == "EAGAIN"
        assert neighbour.probe(f"def lock():\n    {take}\ntell(outcome(lock))") == "ok"
