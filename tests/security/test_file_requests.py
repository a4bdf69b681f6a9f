"""The service reads, writes, lists and watches files for its clients, in a tree that the sandbox controls: nothing of
the host may come out, nothing of the host may change, and nothing may block."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from cube.envd.guest import FileType
from cube.model.errors import CubeError, InvalidInput, NotFound, PermissionDenied
from security.ground import Box

SECRET = b"what stands on the host only\n"
Request = Callable[[str], Coroutine[Any, Any, object]]


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with one file. At the end it must be as it was."""
    directory = tmp_path / "canary"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "secret").write_bytes(SECRET)
    (directory / "secret").chmod(0o666)
    yield directory
    assert [entry.name for entry in directory.iterdir()] == ["secret"]
    assert (directory / "secret").read_bytes() == SECRET


def requests(box: Box, user: str = "root") -> dict[str, Request]:
    """Everything that can be asked about a path."""
    guest = box.guest

    async def read(path: str) -> object:
        opened = await guest.open_read(path, user)
        try:
            return await opened.file.read_at(1 << 16, 0)
        finally:
            opened.file.close()

    async def write(path: str) -> object:
        opened = await guest.open_write(path, user)
        try:
            return await opened.file.write(b"overwritten")
        finally:
            opened.file.close()

    async def watch(path: str) -> object:
        watch = await guest.watch(path, user, recursive=True)
        watch.close()
        return watch

    return {
        "read": read,
        "write": write,
        "stat": lambda path: guest.stat(path, user),
        "list": lambda path: guest.list_dir(path, user, 2),
        "make": lambda path: guest.make_dir(path, user),
        "move from": lambda path: guest.move(path, "/tmp/moved-here", user),
        "move to": lambda path: guest.move("/tmp/bait", path, user),
        "remove": lambda path: guest.remove(path, user),
        "watch": watch,
    }


NAMES = ("read", "write", "stat", "list", "make", "move from", "move to", "remove", "watch")
#: Ways to name a path of the host; ``{}`` is that path.
WAYS = {
    "absolute": "{}",
    "dots": "/../../../../../../../..{}",
    "dots below a file": "/tmp/x/../../../../..{}",
    "home": "~/../../../../../..{}",
    "root of process 1": "/proc/1/root{}",
    "cwd of process 1": "/proc/1/cwd{}",
    "own root": "/proc/self/root{}",
    "own descriptor": "/proc/self/fd/3{}",
    "descriptor's root": "/proc/self/fd/4/../../../../..{}",
    "thread": "/proc/thread-self/root/..{}",
    "map": "/proc/self/map_files/..{}",
    "planted link": "/tmp/link-absolute{}",
    "planted link with dots": "/tmp/link-dots{}",
    "planted link to /proc": "/tmp/link-proc{}",
    "planted link to a descriptor": "/tmp/link-fd{}",
}
PLANT = """
rm -rf /tmp/link-* /tmp/bait /tmp/moved-here
ln -s / /tmp/link-absolute; ln -s ../../../../../.. /tmp/link-dots
ln -s /proc/1/root /tmp/link-proc; ln -s /proc/self/fd/3 /tmp/link-fd
echo bait > /tmp/bait
"""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_path_leads_out(sandbox: Box, canary: Path, way: str) -> None:
    """`..`, absolute links, magic links of /proc: every request, to the file, to its directory and to a new name in it.
    The canary fixture compares the host afterwards."""
    for name, request in requests(sandbox).items():
        for target in (canary / "secret", canary, canary / "new"):
            sandbox.shell(PLANT)
            assert sandbox.answer(request(way.format(target))) != SECRET, name
            sandbox.shell(f"rm -rf /{canary.parts[1]}/{canary.parts[2]}")


@pytest.mark.parametrize("link", ["/etc/shadow", "/proc/1/environ", "/proc/1/mem", "/proc/kcore", "/dev/mem"])
def test_links_of_the_user_are_followed_with_the_rights_of_the_user(sandbox: Box, link: str) -> None:
    """A request for the user is carried out as the user: links to root's files stay closed."""
    sandbox.shell(f"rm -f /home/user/link; ln -s {link} /home/user/link", "user")
    for work in (sandbox.guest.open_read("/home/user/link", "user"), sandbox.guest.open_write("link", "user")):
        with pytest.raises(CubeError):
            sandbox.call(work)


def test_files_that_are_none_are_refused_at_once(sandbox: Box) -> None:
    """A FIFO without a writer, devices, sockets, directories, files of /proc that block: opening or reading one of them
    would stop a thread of the service."""
    sandbox.probe("""
import shutil
shutil.rmtree('/tmp/odd', ignore_errors=True)
os.mkdir('/tmp/odd')
os.mkfifo('/tmp/odd/fifo')
os.mkdir('/tmp/odd/directory')
socket.socket(socket.AF_UNIX).bind('/tmp/odd/socket')
for name, target in {'zero': '/dev/zero', 'tty': '/dev/tty', 'ptmx': '/dev/ptmx', 'random': '/dev/random',
                     'loop': 'loop', 'pipe': '/proc/self/fd/1', 'fifo2': 'fifo'}.items():
    os.symlink(target, '/tmp/odd/' + name)
tell(0)
""")  # fmt: skip
    for name in ("fifo", "fifo2", "directory", "socket", "zero", "tty", "ptmx", "random", "loop", "pipe"):
        for work in (sandbox.guest.open_read, sandbox.guest.open_write):
            began = time.monotonic()
            with pytest.raises((InvalidInput, NotFound, PermissionDenied)):
                sandbox.call(work(f"/tmp/odd/{name}", "root"))
            assert time.monotonic() - began < 2, name


@pytest.mark.parametrize(
    "path", ["/proc/kmsg", "/proc/self/mem", "/proc/1/stat", "/proc/pressure/cpu", "/proc/sys/kernel/ostype"]
)
def test_files_of_proc_come_in_bounded_time(sandbox: Box, path: str) -> None:
    """Regular by their type, and yet some of them block or never end."""
    try:
        opened = sandbox.call(sandbox.guest.open_read(path, "root"))
    except CubeError:
        return
    fd = opened.file.fd
    try:
        os.set_blocking(fd, False)
        with contextlib.suppress(BlockingIOError, OSError):
            os.read(fd, 4096)
    finally:
        os.close(fd)


def test_a_lease_does_not_hold_a_request_up(sandbox: Box) -> None:
    """F_SETLEASE makes an open wait up to 45 seconds for the holder; ours does not wait."""
    with sandbox.background("""
import fcntl
fd = os.open('/tmp/leased', os.O_RDWR | os.O_CREAT, 0o666)
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
tell(1)
sys.stdin.read()
"""):  # fmt: skip
        for work in (sandbox.guest.open_read, sandbox.guest.open_write):
            began = time.monotonic()
            with pytest.raises(CubeError):
                sandbox.call(work("/tmp/leased", "root"))
            assert time.monotonic() - began < 5
        sandbox.call(sandbox.guest.stat("/tmp/leased", "root"))


#: Swaps what stands at /tmp/race/spot as fast as one process can, without a moment in which nothing stands there.
SWAP = """
import shutil
shutil.rmtree('/tmp/race', ignore_errors=True)
os.makedirs('/tmp/race/spot/sub')
os.symlink({link!r}, '/tmp/race/link')
os.mkfifo('/tmp/race/fifo')
open('/tmp/race/spot/secret', 'w').close()
os.chmod('/tmp/race', 0o777)
if os.fork() == 0:
    while True: call('renameat2', -100, b'/tmp/race/spot', -100, b'/tmp/race/{other}', 2)
tell(1)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_that_turns_into_a_link_meanwhile(own_sandbox: Box, canary: Path, name: str) -> None:
    """CVE-2021-30465 and its kind: between the look at a path and its use, a part of it becomes a link to the host's
    path, or to the root of process 1. What the helper resolves, it resolves inside."""
    work = requests(own_sandbox)[name]
    with own_sandbox.background(SWAP.format(link=f"/proc/1/root{canary}", other="link")):
        for round_ in range(60):
            path = f"/tmp/race/spot/{('secret', 'sub', f'new{round_}')[round_ % 3]}"
            if name == "move to":
                own_sandbox.write("/tmp/bait", b"bait")
            assert own_sandbox.answer(work(path)) != SECRET


@pytest.mark.parametrize("name", ["read", "write", "stat", "list", "watch"])
def test_a_file_that_turns_into_a_pipe_meanwhile(own_sandbox: Box, name: str) -> None:
    """Between stat and open a file becomes a FIFO: neither the helper nor the service may wait for its other end."""
    work = requests(own_sandbox)[name]
    script = SWAP.format(link="/", other="fifo").replace(
        "os.makedirs('/tmp/race/spot/sub')", "os.makedirs('/tmp/race')"
    )
    script = script.replace("/tmp/race/spot/secret", "/tmp/race/spot")
    with own_sandbox.background(script):
        for _ in range(60):
            began = time.monotonic()
            own_sandbox.answer(work("/tmp/race/spot"))
            assert time.monotonic() - began < 3


def test_listing_does_not_follow_links(sandbox: Box) -> None:
    """A link to / in a listed tree would list everything, one to itself would never end."""
    sandbox.shell("rm -rf /tmp/tree; mkdir -p /tmp/tree/a; ln -s / /tmp/tree/a/all; ln -s . /tmp/tree/a/again")
    entries = sandbox.call(sandbox.guest.list_dir("/tmp/tree", "root", 32))
    assert sorted(entry.path for entry in entries) == ["/tmp/tree/a", "/tmp/tree/a/again", "/tmp/tree/a/all"]


def test_removing_does_not_follow_links(sandbox: Box) -> None:
    """Nor does removing a tree: the target of a link in it stays (CVE-2022-21658 in Rust's library, and others)."""
    sandbox.shell(
        "rm -rf /tmp/tree /tmp/kept; mkdir -p /tmp/tree/a /tmp/kept; touch /tmp/kept/x; ln -s /tmp/kept /tmp/tree/a/l"
    )
    sandbox.call(sandbox.guest.remove("/tmp/tree", "root"))
    assert sandbox.shell("ls /tmp/kept; ls -d /tmp/tree 2>/dev/null || true") == "x"


def test_deep_and_wide_trees_end(own_sandbox: Box) -> None:
    """Directories far deeper than a path can be long, removed and listed: no stack, descriptor or time runs out."""
    own_sandbox.probe("""
os.mkdir('/tmp/deep')
os.chdir('/tmp/deep')
for _ in range(3000):
    os.mkdir('d' * 20)
    os.chdir('d' * 20)
os.mkdir('/tmp/wide')
for number in range(5000): os.symlink('x' * 200, f'/tmp/wide/{number}')
tell(0)
""")  # fmt: skip
    own_sandbox.answer(own_sandbox.guest.list_dir("/tmp/deep", "root", 1_000_000), 30)
    assert len(own_sandbox.call(own_sandbox.guest.list_dir("/tmp/wide", "root", 1), 30)) == 5000
    own_sandbox.call(own_sandbox.guest.remove("/tmp/deep", "root"), 30)
    own_sandbox.call(own_sandbox.guest.remove("/tmp/wide", "root"), 30)
    assert own_sandbox.shell("ls /tmp") == ""


@pytest.mark.parametrize("path", ["/proc", "/proc/self/fd", "/sys", "/dev", "/proc/1", "/"])
def test_watching_what_is_not_the_sandbox_s(sandbox: Box, path: str) -> None:
    """A recursive watch on /proc or / ends in bounded time, refused or not, and tells nothing of the host."""
    began = time.monotonic()
    try:
        watch = sandbox.call(sandbox.guest.watch(path, "user", recursive=True), 50)
    except CubeError:
        watch = None
    assert time.monotonic() - began < 30
    if watch is not None:
        try:
            for node in ("/dev/null", "/proc/stat"):
                os.close(os.open(node, os.O_RDONLY))
            names = {event.name for event in sandbox.call(watch.read())}
            assert not any(name.startswith(("null", "stat")) for name in names)
        finally:
            watch.close()


def test_a_watch_through_a_link_stays_inside(sandbox: Box, canary: Path) -> None:
    """A watched link to the host's path shows the directory of that name inside, which does not exist."""
    sandbox.shell(f"rm -f /tmp/spy; ln -s /proc/1/root{canary} /tmp/spy")
    with pytest.raises(CubeError):
        sandbox.call(sandbox.guest.watch("/tmp/spy", "root", recursive=True))


def test_names_that_are_no_text_do_not_confuse(sandbox: Box) -> None:
    """Line ends, escapes, quotes and bytes that are no UTF-8 in names, targets and attributes."""
    sandbox.probe("""
import shutil
shutil.rmtree('/tmp/names', ignore_errors=True)
os.mkdir('/tmp/names')
for name in (b'a\\nb', b'\\x1b[2J', b'\\xff\\xfe', b'"', b'..a', b' ', b'\\xed\\xa0\\x80', b'n' * 255):
    open(b'/tmp/names/' + name, 'w').close()
os.symlink(b'\\xff' * 4000, b'/tmp/names/link')
os.setxattr('/tmp/names/..a', b'user.e2b.\\xff', b'\\xff' * 100)
tell(0)
""")  # fmt: skip
    entries = sandbox.call(sandbox.guest.list_dir("/tmp/names", "root", 1))
    assert len(entries) == 9
    assert all(entry.type in tuple(FileType) for entry in entries)
    for entry in entries:
        entry.path.encode()
        assert entry.path.startswith("/tmp/names/")


PASSWD = {
    "a FIFO": "mkfifo /etc/passwd",
    "a link to itself": "ln -s passwd /etc/passwd",
    "a link to memory": "ln -s /proc/self/mem /etc/passwd",
    "endless": "truncate -s 1T /etc/passwd",
    "a directory": "mkdir /etc/passwd",
    "one line of a megabyte": "head -c 1000000 /dev/zero | tr '\\\\0' x > /etc/passwd",
    "missing": "true",
    "lies": "printf 'user:x:99999999999:-1::/proc/1/root:/bin/sh\\\\nroot:x:4294967295:0::/:\\\\n' > /etc/passwd",
    "a terminal": "ln -s /dev/tty /etc/passwd",
}


@pytest.mark.parametrize("script", PASSWD.values(), ids=PASSWD)
def test_a_hostile_passwd_file(own_sandbox: Box, script: str) -> None:
    """Users are looked up in a file of the sandbox for each request: it must not block, grow or raise."""
    own_sandbox.shell(f"rm -f /etc/passwd; {script}")
    began = time.monotonic()
    for user in ("root", "user", "1000", ""):
        for work in (
            lambda u: own_sandbox.guest.stat("/etc/hosts", u),
            lambda u: own_sandbox.guest.list_dir("/", u, 1),
        ):
            own_sandbox.answer(work(user))
    assert time.monotonic() - began < 5
    assert own_sandbox.shell("id -u", "0") == "0"
    with pytest.raises(CubeError):
        own_sandbox.run("true", user="4294967295")
