"""What the inside of a sandbox looks like, as launch steps: file system, devices, limits, rights. All policy is here.

Order matters: the launcher is root of the host until ``EnterUser``, so that everything it makes before belongs to the
host and nothing in the sandbox has rights over it.
"""

from __future__ import annotations

import functools
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.runtime.container import steps
from cube.cubelet.runtime.container.attachments import Attachment
from cube.cubelet.runtime.container.seccomp.bpf import filter_bytes
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.storage.volume import Layer
from cube.model.resources import Resources

# linux/capability.h. Docker's default set without MKNOD, NET_RAW, SETPCAP and AUDIT_WRITE, which are of no use where
# the namespaces belong to the host.
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "SETFCAP": 31,
}
CAPABILITY_MASK = sum(1 << number for number in CAPABILITIES.values())

#: Paths that tell of the host or act on it; the list that container engines share.
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
    # What other sandboxes write, by layer.
    "/sys/fs/btrfs",
)
#: /proc/pressure: everybody may write there to make triggers, which cost the kernel memory that nobody is charged for.
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger")

#: (name, major, minor) of Documentation/admin-guide/devices.txt.
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEVICE_LINKS = {
    "/dev/ptmx": "pts/ptmx",
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
#: Group that owns terminals in every distribution's /etc/group.
_TTY_GROUP = 5
#: Terminals of one sandbox: the kernel counts them for the whole machine (4,096 by default).
_TERMINALS = 256

_PLAIN = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC

_CAP_SYS_RESOURCE = 24


#: What is put together ahead and moved into the root later.
_READY_MADE = ("proc", "sys", "dev")


def prepare_stage(stage: Path) -> None:
    """Make the empty directories of the host that every start mounts over, in its own mount namespace."""
    for name in ("image", "layer", "root", "mount", *(f"ahead/{name}" for name in _READY_MADE)):
        (stage / name).mkdir(parents=True, exist_ok=True, mode=0o700)


def ahead(stage: Path, id_base: int) -> Iterator[Step]:
    """/proc, /sys and /dev of a sandbox whose image is not known yet; its namespaces have been entered."""
    yield steps.Staging(str(stage / "ahead"))
    yield steps.Mount("proc", "/proc", _PLAIN)
    yield steps.Mount("sysfs", "/sys", _PLAIN | MountAttr.RDONLY)
    yield from _devices(id_base)
    for path in MASKED:
        yield steps.Mask(path)
    for path in READ_ONLY:
        yield steps.ReadOnly(path)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sandbox's file system is put together, and from what. Descriptors are borrowed."""

    #: Directory that :func:`prepare_stage` made.
    stage: Path
    #: Detached, id-mapped mount of the read-only image.
    image: int
    #: Where the layer is; with ``layer_mount``, where it will be, see :func:`brought_layer`.
    layer: Layer
    #: Host id of the sandbox's root.
    id_base: int
    hostname: str
    address: str
    attachments: tuple[Attachment, ...]
    #: The ``cube-init`` program, shown as /usr/bin/sudo; ``None`` where the template has no users for it.
    sudo: Path | None
    #: Detached, id-mapped mount of a layer whose files have other ids than this sandbox, and whose /etc is in order;
    #: ``None`` for the seat's own.
    layer_mount: int | None = None


def brought_layer(stage: Path) -> Layer:
    """Where a layer is that is attached from ``Place.layer_mount``."""
    return Layer(stage / "layer" / "upper", stage / "layer" / "work")


def file_system(place: Place) -> Iterator[Step]:
    """The root, with what :func:`ahead` has made moved into it, up to and including the change of root."""
    image, root = str(place.stage / "image"), str(place.stage / "root")
    yield from _identity(place)
    yield steps.Staging(root)
    yield steps.AttachHost(place.image, image)
    # volatile: never waits for the disk; what a crash of the machine loses belongs to sandboxes that it ended anyway.
    yield steps.Overlay((image,), str(place.layer.upper), str(place.layer.work), "volatile,xino=off,redirect_dir=on")
    for name in _READY_MADE:
        yield steps.MoveIn(str(place.stage / "ahead" / name), f"/{name}")
    if place.sudo is not None:
        yield steps.Bind(str(place.sudo), "/usr/bin/sudo", MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV)
    for attachment in place.attachments:
        yield steps.AttachHost(attachment.mount, str(place.stage / "mount"))
        yield steps.MoveIn(str(place.stage / "mount"), attachment.target)
    yield steps.Pivot()


def _identity(place: Place) -> Iterator[Step]:
    """The host name, and what /etc says of it beside what :mod:`.seat_files` has put into the seat's layer."""
    yield steps.Hostname(place.hostname)
    if place.layer_mount is not None:
        yield steps.AttachHost(place.layer_mount, str(place.stage / "layer"))
        return
    yield steps.Staging(str(place.layer.upper))
    hosts = f"127.0.0.1 localhost\n{place.address} {place.hostname}\n"
    yield steps.File("/etc/hosts", 0o644, place.id_base, place.id_base, hosts.encode())
    yield steps.File("/etc/hostname", 0o644, place.id_base, place.id_base, f"{place.hostname}\n".encode())


def _devices(base: int) -> Iterator[Step]:
    yield steps.Mount("tmpfs", "/dev", MountAttr.NOSUID, _tmpfs(base, "755", "size=1m"))
    for name, major, minor in DEVICES:
        yield steps.MakeNode(f"/dev/{name}", stat.S_IFCHR | 0o666, major, minor, base, base)
    terminals = (("mode", "620"), ("ptmxmode", "666"), ("gid", str(base + _TTY_GROUP)), ("max", str(_TERMINALS)))
    yield steps.Mount("devpts", "/dev/pts", MountAttr.NOSUID | MountAttr.NOEXEC, terminals)
    yield steps.Mount("tmpfs", "/dev/shm", _PLAIN, _tmpfs(base, "1777"))  # noqa: S108  inside the sandbox
    yield steps.Mount("mqueue", "/dev/mqueue", _PLAIN)
    for path, target in _DEVICE_LINKS.items():
        yield steps.SymbolicLink(target, path)


def _tmpfs(base: int, mode: str, *more: str) -> tuple[tuple[str, str], ...]:
    options = [("mode", mode), ("uid", str(base)), ("gid", str(base))]
    for option in more:
        key, _, value = option.partition("=")
        options.append((key, value))
    return tuple(options)


# Process 1 keeps the ordinary out-of-memory score: lowering it would let every process of the sandbox lower its own,
# and being the smallest process around it is not chosen anyway.


def rights(user_namespace: int, resources: Resources) -> Iterator[Step]:
    """Limits and the loss of rights; after these steps process 1 is what it will stay."""
    yield _limit(resource.RLIMIT_NOFILE, resources.open_files)
    yield _limit(resource.RLIMIT_CORE, 0)
    yield _limit(resource.RLIMIT_MEMLOCK, 8 << 20)
    yield steps.EnterUser(user_namespace)
    yield steps.CapabilitySet(CAPABILITY_MASK)
    yield steps.NoNewPrivs()
    yield steps.Seccomp(filter_bytes())


def _limit(kind: int, wanted: int) -> Step:
    hard = resource.getrlimit(kind)[1]
    value = wanted if hard == resource.RLIM_INFINITY or _may_exceed_limits() else min(wanted, hard)
    return steps.ResourceLimit(kind, value, value)


@functools.cache
def _may_exceed_limits() -> bool:
    """Whether the service has CAP_SYS_RESOURCE, which a confined root may lack."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False
