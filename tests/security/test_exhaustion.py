"""Using up everything: it ends at the sandbox's own limits, others go on, and the sandbox can still be removed."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cube.model.errors import CubeError
from cube.model.resources import Resources
from security.ground import Box, Ground

TINY = Resources(cpu_count=1, memory_mb=96, disk_mb=24, pids=48, open_files=1024)
MIB = 1 << 20


@pytest.fixture
def victim(ground: Ground) -> Iterator[Box]:
    """A sandbox with tight limits. At the end its process 1, and so all of its processes, are gone from the host."""
    with ground.sandbox(resources=TINY) as box:
        ended = os.pidfd_open(box.pid)
        yield box
    assert select.select([ended], [], [], 5)[0], "its process 1 lives on"
    os.close(ended)


@pytest.fixture(scope="module")
def neighbour(ground: Ground) -> Iterator[Box]:
    with ground.sandbox() as box:
        yield box


@contextmanager
def undisturbed(neighbour: Box) -> Iterator[None]:
    """What happens in the block does not keep a neighbour from its work, nor take much of the host's memory."""
    free = _available()
    yield
    began = time.monotonic()
    assert neighbour.run("/bin/echo", "fine").stdout == "fine\n"
    assert time.monotonic() - began < 5
    assert free - _available() < 512 * MIB


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def alive(box: Box) -> bool:
    """Whether the sandbox answers; when it does not, it must have ended, and its owner been told."""
    try:
        box.call(box.guest.ping(), 10)
    except CubeError:
        assert box.guest.closed.is_set()
        return False
    return True


def usage(box: Box) -> dict[str, int]:
    used = box.call(box.ground.runtime.stats(box.instance))
    return {"pids": used.pids, "memory": used.memory_bytes, "disk": used.disk_bytes}


#: Starts what outlives the script, without holding its pipes.
QUIETLY = """
import subprocess
def start(*argv):
    none = subprocess.DEVNULL
    return subprocess.Popen(argv, start_new_session=True, stdin=none, stdout=none, stderr=none).pid
"""


@pytest.mark.parametrize("user", ["root", "user"])
def test_fork_bomb(victim: Box, neighbour: Box, user: str) -> None:
    """The pids limit holds, the host can start no more processes inside (and says so), and destroying it all works."""
    bomb = "bomb() { bomb | bomb & }; trap '' TERM HUP INT; bomb; sleep 60"
    with undisturbed(neighbour):
        victim.probe(f"{QUIETLY}start('/bin/bash', '-c', {bomb!r})\ntell(0)", user)
        deadline = time.monotonic() + 20
        while (count := usage(victim)["pids"]) < TINY.pids - 4:
            assert time.monotonic() < deadline, "the bomb did not go off"
        assert count <= TINY.pids
        assert alive(victim)


def test_thread_bomb(victim: Box, neighbour: Box) -> None:
    """Threads count as processes do."""
    with undisturbed(neighbour):
        count = victim.probe("""
import threading
started = 0
try:
    for _ in range(5000):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        started += 1
except RuntimeError: pass
sys.stdout.write(json.dumps(started) + '\\n')
sys.stdout.flush()
os._exit(0)
""")  # fmt: skip
        assert 8 < count < TINY.pids


def test_processes_that_nobody_waits_for(victim: Box) -> None:
    """Zombies: orphans are reaped by process 1, so a million of them one after the other leave nothing."""
    victim.shell("for i in $(seq 300); do (true &); done")
    assert victim.probe("tell([status(pid)['Name'] for pid in os.listdir('/proc') if pid.isdecimal() and "
                        "status(pid)['State'][0] == 'Z'])") == []  # fmt: skip


@pytest.mark.parametrize("user", ["root", "user"])
def test_memory_bomb(victim: Box, neighbour: Box, user: str) -> None:
    """Out of memory inside: somebody inside is killed, nobody outside."""
    with undisturbed(neighbour):
        victim.probe(f"import subprocess\n{_EATER}\ntell(run())", user)
        assert usage(victim)["memory"] <= TINY.memory_mb * MIB
        alive(victim)


#: Started as a process of its own, so that the one that reports is the smaller victim.
_EATER = """
def run():
    code = 'blocks = []\\nwhile True: blocks.append(bytearray(1 << 20))'
    return subprocess.run([sys.executable, '-SE', '-c', code]).returncode
"""


def test_memory_of_files_in_shared_memory_counts(victim: Box, neighbour: Box) -> None:
    """tmpfs is memory: /dev/shm, /dev, and memory files that nobody can see."""
    with undisturbed(neighbour):
        victim.run("dd if=/dev/zero of=/dev/shm/full bs=1M count=4096")
        assert usage(victim)["memory"] <= TINY.memory_mb * MIB
        alive(victim)


def test_memory_of_segments_that_nobody_has_attached_counts(victim: Box, neighbour: Box) -> None:
    """System V segments outlive their maker; they end with the IPC namespace."""
    with undisturbed(neighbour):
        try:
            victim.run(
                "/usr/bin/python3", "-c",
                "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
                "for _ in range(64):\n"
                "    ctypes.memset(libc.shmat(libc.shmget(0, 16 << 20, 0o1600), None, 0), 1, 16 << 20)",
            )  # fmt: skip
        except CubeError:
            assert victim.guest.closed.is_set()
        assert usage(victim)["memory"] <= TINY.memory_mb * MIB


def test_the_tmpfs_of_dev_is_small(victim: Box) -> None:
    """/dev is writable by root inside and holds a few links: 1 MiB."""
    done = victim.run("dd if=/dev/zero of=/dev/full-of-it bs=64k count=64")
    assert "No space left" in done.stderr


@pytest.mark.parametrize("user", ["root", "user"])
def test_disk_quota(victim: Box, neighbour: Box, user: str) -> None:
    """The writable layer ends at its quota; the volume that all share has room still."""
    with undisturbed(neighbour):
        done = victim.run("cat /dev/zero > /tmp/full; sync", user=user)
        assert "quota exceeded" in done.stderr or "No space left" in done.stderr, done
        assert usage(victim)["disk"] <= (TINY.disk_mb + 4) * MIB
        assert neighbour.run("dd if=/dev/urandom of=/tmp/mine bs=1M count=8 conv=fsync && rm /tmp/mine").ok
        assert victim.run("rm /tmp/full && echo again > /tmp/again").ok


def test_disk_quota_cannot_be_reserved_away(victim: Box) -> None:
    """fallocate, sparse files and hard links: none gives more than the quota."""
    assert victim.probe("""
fd = os.open('/tmp/reserved', os.O_RDWR | os.O_CREAT)
def reserve(): os.posix_fallocate(fd, 0, 4 << 30)
def write():
    for number in range(64): os.pwrite(fd, os.urandom(1 << 20), number << 20)
    os.fsync(fd)
os.ftruncate(fd, 1 << 40)
tell([outcome(reserve), outcome(write)])
""") == ["EDQUOT", "EDQUOT"]  # fmt: skip
    assert usage(victim)["disk"] <= (TINY.disk_mb + 4) * MIB


def test_names_take_room_too(victim: Box, neighbour: Box) -> None:
    """Inodes and directory entries are metadata of the volume that all share: they count, or are few."""
    with undisturbed(neighbour):
        victim.probe("""
os.mkdir('/tmp/names')
def fill():
    for number in range(60000):
        with open(f'/tmp/names/{number:0200}', 'wb') as file: file.write(b'x' * 1500)
tell(outcome(fill))
""", seconds=60)  # fmt: skip
        assert usage(victim)["disk"] <= (TINY.disk_mb + 16) * MIB
        assert neighbour.run("echo x > /tmp/x; sync -f /tmp/x").ok


def test_attributes_take_room_too(victim: Box) -> None:
    """Extended attributes: user.* of files in the layer."""
    victim.probe("""
def fill():
    for number in range(20000):
        path = f'/tmp/a{number}'
        open(path, 'w').close()
        for key in range(3): os.setxattr(path, f'user.{key}', b'v' * 3500)
tell(outcome(fill))
""", seconds=60)  # fmt: skip
    assert usage(victim)["disk"] <= (TINY.disk_mb + 16) * MIB


def test_a_hundred_thousand_open_files(ground: Ground, neighbour: Box) -> None:
    """Where the limits allow it they work, are charged to the sandbox's memory, and are gone with it."""
    before = _files_of_the_machine()
    with ground.sandbox(resources=Resources(cpu_count=1, memory_mb=512, disk_mb=64, pids=64)) as box:
        with undisturbed(neighbour):
            assert box.probe("""
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
# As many processes as it takes: a service without CAP_SYS_RESOURCE has less than 100,000 to give to one.
def hold():
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for _ in range(min(limit - 64, 100_000)): os.open('/dev/null', os.O_RDONLY)
total, holders = 0, []
while total < 100_000:
    reader, writer = os.pipe()
    holders.append(os.fork())
    if holders[-1] == 0:
        os.write(writer, outcome(hold).encode())
        signal.pause()
    assert os.read(reader, 16) == b'ok'
    total += min(limit - 64, 100_000)
for pid in holders: os.kill(pid, 9)
tell(total)
""") >= 100_000  # fmt: skip
        assert alive(box)
    assert _files_of_the_machine() < before + 50_000


def _files_of_the_machine() -> int:
    return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])


def test_every_processor_kept_busy(victim: Box, neighbour: Box) -> None:
    """Spinning, with the highest priority that may be asked for: the host and the neighbour get their share."""
    with victim.background("""
for _ in range(8):
    if os.fork() == 0:
        outcome(os.nice, -20)
        outcome(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(99))
        while True: pass
tell([outcome(os.nice, -1), outcome(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))])
sys.stdin.read()
""") as spinning, undisturbed(neighbour):  # fmt: skip
        assert spinning.said == b'["EPERM", "EPERM"]\n'
        assert alive(victim)


def test_a_program_that_ignores_every_signal_ends(victim: Box) -> None:
    """And one that is stopped, and one under a tracer: the cgroup's kill ends them all (checked by the fixture)."""
    victim.probe(f"""{QUIETLY}
ignore = '''import signal, time
for number in signal.valid_signals() - {{9, 19, 32, 33}}: signal.signal(number, signal.SIG_IGN)
time.sleep(600)'''
start(sys.executable, '-SE', '-c', ignore)
os.kill(start('sleep', '600'), signal.SIGSTOP)
call('ptrace', 16, start('sleep', '600'), 0, 0)
tell(0)
""")  # fmt: skip
    assert os.path.exists(f"/proc/{victim.pid}")
