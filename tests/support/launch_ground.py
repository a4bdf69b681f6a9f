"""What a launch needs from the machine, made for one test and taken away after it; and a look inside a sandbox."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import stat
import struct
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cube.cubelet.runtime.container import datagrams, steps, syscalls
from cube.cubelet.runtime.container.datagrams import Datagram
from cube.cubelet.runtime.container.launcher import Launched, Launcher
from cube.cubelet.runtime.container.plan import Plan
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.guest.wire import Kind, Reader, Writer

ID_BASE = 0x5000_0000
ID_COUNT = 65536
PLAIN = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
READ_ONLY = MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV
#: CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID.
CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7
#: BPF_RET | BPF_K, SECCOMP_RET_ALLOW: allows everything.
ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF_0000)

_CLONE_NEWNET = 0x4000_0000
_CGROUPS = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")


def read(path: str | Path) -> str:
    """Text of a small file."""
    return Path(path).read_text()


def exists(pid: int) -> bool:
    """Whether a process exists, a dead one that nobody has waited for included."""
    return os.path.exists(f"/proc/{pid}")


async def childless(pid: int) -> bool:
    """Whether no process that this one has started exists; allows for the moment from the end to the reaping."""
    for _ in range(100):
        if not read(f"/proc/{pid}/task/{pid}/children"):
            return True
        await asyncio.sleep(0.01)
    return False


async def kill(pid: int) -> None:
    """Kill a process and wait for its end."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await _readable(pidfd)
    os.close(pidfd)


def status(pid: int) -> dict[str, str]:
    """``/proc/<pid>/status``."""
    lines = read(f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def network_namespace() -> int:
    """A new network namespace, made in a thread that ends with it."""
    made: list[int] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) == 0:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def make_cgroup(hierarchies: Sequence[str] = _CGROUPS) -> Path:
    """A new cgroup in the first of these hierarchies that is mounted, by default of either version."""
    parent = next(path for path in hierarchies if os.path.exists(f"{path}/cgroup.procs"))
    cgroup = Path(parent) / f"cube-test-{uuid.uuid4().hex}"
    cgroup.mkdir()
    return cgroup


async def remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup, with the sandbox that a failed test has left in it."""
    for pid in read(cgroup / "cgroup.procs").split():
        with suppress(ProcessLookupError):
            await kill(int(pid))
    os.rmdir(cgroup)


def make_image(directory: Path) -> None:
    """A root file system whose programs are those of the host, shown read-only."""
    for name in ("usr", "etc", "proc", "sys", "dev", "root", "outside"):
        (directory / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (directory / name).symlink_to(f"usr/{name}")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    (directory / "etc/of-the-image").write_text("image\n")
    (directory / "etc/resolv.conf").symlink_to("/run/nowhere/resolv.conf")
    os.mknod(directory / "etc/device", stat.S_IFCHR | 0o666, os.makedev(1, 3))


@dataclass(slots=True)
class Ground:
    """Directories and descriptors for one sandbox."""

    directory: Path
    image: int
    network: int
    user_namespace: int
    cgroup: Path
    procs: int
    listening: socket.socket
    extra: list[Step] = field(default_factory=list)

    @property
    def root(self) -> str:
        return str(self.directory / "root")

    def plan(self, *, replace: Callable[[list[Step]], list[Step]] = lambda found: found) -> Plan:
        """A plan as realistic as it gets; ``replace`` may change its steps."""
        found = [*self._place(), *self._file_system(), *self._rights()]
        return Plan(self.listening.fileno(), steps=replace(found))

    def _place(self) -> list[Step]:
        return [
            steps.JoinCgroup(self.procs),
            steps.EnterNet(self.network),
            steps.NewCgroupNamespace(),
            steps.Hostname("inside"),
        ]

    def _file_system(self) -> list[Step]:
        lower, layer = str(self.directory / "lower"), str(self.directory / "lay,er:1")
        owner = (("mode", "755"), ("uid", str(ID_BASE)), ("gid", str(ID_BASE)))
        return [
            steps.Staging(self.root),
            steps.AttachHost(self.image, lower),
            steps.Overlay((lower,), f"{layer}/upper", f"{layer}/work", "volatile,xino=off"),
            steps.Bind("/usr", "/usr", READ_ONLY, recursive=True),
            steps.Mount("proc", "/proc", PLAIN),
            steps.Mount("sysfs", "/sys", PLAIN | MountAttr.RDONLY),
            steps.Mount("tmpfs", "/dev", MountAttr.NOSUID, owner),
            steps.MakeNode("/dev/null", stat.S_IFCHR | 0o666, 1, 3, ID_BASE, ID_BASE),
            steps.MakeNode("/dev/zero", stat.S_IFCHR | 0o666, 1, 5, ID_BASE, ID_BASE),
            steps.SymbolicLink("/proc/self/fd", "/dev/fd"),
            steps.Mount("devpts", "/dev/pts", MountAttr.NOSUID, (("newinstance", ""), ("ptmxmode", "666"))),
            steps.Mount("tmpfs", "/run/made/on/the/way", PLAIN, owner),
            steps.Directory("/tmp", 0o1777, ID_BASE, ID_BASE),
            steps.File("/etc/hosts", 0o644, ID_BASE, ID_BASE, b"127.0.0.1 localhost\n"),
            steps.File("/etc/resolv.conf", 0o644, ID_BASE, ID_BASE, b"nameserver 192.0.2.1\n"),
            steps.Sysctl("net/ipv4/ip_default_ttl", "42"),
            *self.extra,
            steps.Mask("/proc/version"),
            steps.Mask("/proc/acpi"),
            steps.Mask("/sys/firmware"),
            steps.Mask("/proc/not/there"),
            steps.ReadOnly("/proc/sys"),
            steps.ReadOnly("/not/there"),
            steps.Pivot(),
        ]

    def _rights(self) -> list[Step]:
        return [
            steps.OomScore(300),
            steps.ResourceLimit(7, 512, 1024),
            steps.EnterUser(self.user_namespace),
            steps.CapabilitySet(CAPABILITIES),
            steps.NoNewPrivs(),
            steps.Seccomp(ALLOW_ALL),
        ]

    def processes(self) -> list[str]:
        """Who is in the cgroup."""
        return (self.cgroup / "cgroup.procs").read_text().split()


@asynccontextmanager
async def ground(launcher: Launcher, directory: Path) -> AsyncIterator[Ground]:
    """Ground for one sandbox below an empty directory."""
    async with AsyncExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        make_image(directory / "image")
        for name in ("root", "lower", "lay,er:1/upper", "lay,er:1/work"):
            (directory / name).mkdir(parents=True)
        os.chown(directory / "lay,er:1/upper", ID_BASE, ID_BASE)
        user_namespace = keep(await launcher.userns(ID_BASE, ID_COUNT))
        cgroup = make_cgroup()
        stack.push_async_callback(remove_cgroup, cgroup)
        listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listening.bind(str(directory / "control"))
        listening.listen()
        yield Ground(
            directory,
            keep(id_mapped(directory / "image", user_namespace)),
            keep(network_namespace()),
            user_namespace,
            cgroup,
            keep(os.open(cgroup / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)),
            listening,
        )


def id_mapped(directory: Path, user_namespace: int) -> int:
    """A detached, read-only mount of a directory that shows the host's ids as those of the sandbox."""
    mount = syscalls.open_tree(str(directory))
    try:
        syscalls.mount_setattr(mount, READ_ONLY | MountAttr.IDMAP, userns=user_namespace)
    except BaseException:
        os.close(mount)
        raise
    return mount


async def end(launched: Launched) -> None:
    """Kill a sandbox and wait for its end."""
    with launched.control:
        signal.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
        await _readable(launched.pidfd)
        os.close(launched.pidfd)


async def ask(control: socket.socket, kind: Kind, body: bytes = b"") -> Datagram:
    """One request to process 1 and the next message that comes back."""
    datagrams.send(control, kind, 1, body)
    return await _receive(control)


async def run(control: socket.socket, script: str) -> str:
    """What a shell script inside prints, as root, errors included."""
    argv = ["/bin/sh", "-c", f"exec 2>&1; {script}; true"]
    body = Writer().u32(0).u32(0).u32(0).text("").text("").texts(argv).texts([])
    spawned = await ask(control, Kind.SPAWN, body.finish())
    assert spawned.kind == Kind.SPAWNED, (spawned.kind, spawned.body)
    stdout, stderr = spawned.take_fds(2)
    os.close(stderr)
    exited = await _receive(control)
    assert exited.kind == Kind.EXITED
    output = read_all(stdout)
    reader = Reader(exited.body)
    assert (reader.u32() > 0, reader.i32()) == (True, 0), output
    return output.rstrip("\n")


def read_all(fd: int) -> str:
    """What is left in a pipe whose writers are gone; closes it."""
    with open(fd, "rb") as file:
        return file.read().decode()


async def _receive(control: socket.socket) -> Datagram:
    await _readable(control.fileno())
    message = datagrams.receive(control)
    assert message is not None
    return message


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(5):
            await ready.wait()
    finally:
        loop.remove_reader(fd)
