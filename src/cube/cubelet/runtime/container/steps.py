"""Launch steps: what process 1 of a sandbox does, in order, before it serves (``docs/cube-init.md``).

Every step is a value. A :class:`Plan` holds them with the descriptors that they need; ``str(step)`` says in words what
it does, for the error when the kernel refuses it. The caller decides the order. One that gives up nothing too early:
``JoinCgroup``, ``EnterNet``, ``NewCgroupNamespace``, ``Hostname``, mounts, ``Pivot``, ``Sysctl``, ``ResourceLimit``,
``EnterUser``, ``CapabilitySet``, ``NoNewPrivs``, ``Seccomp``.

User and group ids are those of the host: the first id of the sandbox's range is its root.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.guest.wire import Writer

#: Turns a descriptor into its index in the message.
Index = Callable[[int], int]

#: Longest value that ``fsconfig`` takes, in bytes.
_OPTION_MAX = 255


@dataclass(frozen=True, slots=True)
class Step(ABC):
    """One step; ``op`` is its number on the wire."""

    op: ClassVar[int]

    @abstractmethod
    def encode(self, body: Writer, index: Index) -> None:
        """Append the fields."""

    @abstractmethod
    def __str__(self) -> str:
        """What it does, as "mounting proc on /proc"."""


@dataclass(frozen=True, slots=True)
class JoinCgroup(Step):
    """Join the cgroup of this open ``cgroup.procs``."""

    op: ClassVar[int] = 1
    procs: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.procs))

    def __str__(self) -> str:
        return "joining its cgroup"


@dataclass(frozen=True, slots=True)
class CloneIntoCgroup(Step):
    """Be born in the cgroup of this open directory (version 2 only); must be the first step.

    Joining later takes the lock over all processes of the machine and waits for a grace period of the kernel: measured,
    10 ms where this takes none.
    """

    op: ClassVar[int] = 25
    directory: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.directory))

    def __str__(self) -> str:
        return "being born in its cgroup"


@dataclass(frozen=True, slots=True)
class EnterNet(Step):
    """Enter this network namespace."""

    op: ClassVar[int] = 2
    namespace: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.namespace))

    def __str__(self) -> str:
        return "entering its network namespace"


@dataclass(frozen=True, slots=True)
class NewNet(Step):
    """Leave for a new network namespace that has nothing but a loopback interface that is down."""

    op: ClassVar[int] = 29

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "making an empty network namespace"


@dataclass(frozen=True, slots=True)
class NewCgroupNamespace(Step):
    """Make the cgroups that were joined the roots of what the sandbox sees."""

    op: ClassVar[int] = 3

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "making a cgroup namespace"


@dataclass(frozen=True, slots=True)
class Hostname(Step):
    """Name the machine."""

    op: ClassVar[int] = 4
    name: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.name)

    def __str__(self) -> str:
        return f"setting the host name {self.name}"


@dataclass(frozen=True, slots=True)
class AttachHost(Step):
    """Attach a detached mount at an existing path of the host, seen by this sandbox's start alone."""

    op: ClassVar[int] = 5
    mount: int
    path: str

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.mount)).text(self.path)

    def __str__(self) -> str:
        return f"attaching a mount at {self.path}"


@dataclass(frozen=True, slots=True)
class MoveIn(Step):
    """Move a mount, with all below it, from a path of the host that an earlier step has put it at."""

    op: ClassVar[int] = 27
    source: str
    target: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.source).text(self.target)

    def __str__(self) -> str:
        return f"moving a mount to {self.target}"


@dataclass(frozen=True, slots=True)
class Overlay(Step):
    """Mount an overlay on the staging directory; it becomes the root, without device nodes.

    ``lower`` is the read-only layers, the topmost first; an empty ``upper`` makes the whole read-only. ``options`` as
    in ``/proc/mounts``, such as ``volatile,xino=off``. Raises ``ValueError`` for paths too long for the kernel.
    """

    op: ClassVar[int] = 6
    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    options: str = ""

    def __post_init__(self) -> None:
        for value in (self._lower, _escape(self.upper), _escape(self.work)):
            if len(value.encode(errors="surrogateescape")) > _OPTION_MAX:
                raise ValueError(f"overlay directories take at most {_OPTION_MAX} bytes, attach them at shorter paths")

    @property
    def _lower(self) -> str:
        return ":".join(_escape(layer) for layer in self.lower)

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self._lower).text(_escape(self.upper)).text(_escape(self.work)).text(self.options)

    def __str__(self) -> str:
        return "mounting its file system (overlay)"


def _escape(path: str) -> str:
    """A path as overlayfs reads it: a colon separates layers, a backslash escapes."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


@dataclass(frozen=True, slots=True)
class Staging(Step):
    """Put the new root together on this directory of the host; without an :class:`Overlay` it is what is there."""

    op: ClassVar[int] = 7
    path: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path)

    def __str__(self) -> str:
        return f"opening the staging directory {self.path}"


@dataclass(frozen=True, slots=True)
class Mount(Step):
    """Mount a new file system; an option with an empty value is a flag."""

    op: ClassVar[int] = 8
    fstype: str
    target: str
    attributes: MountAttr = MountAttr.NONE
    options: tuple[tuple[str, str], ...] = ()

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.fstype).text(self.target).u32(self.attributes).u32(len(self.options))
        for key, value in self.options:
            body.text(key).text(value)

    def __str__(self) -> str:
        return f"mounting {self.fstype} on {self.target}"


@dataclass(frozen=True, slots=True)
class Bind(Step):
    """Show a file or directory of the host at ``target``."""

    op: ClassVar[int] = 9
    source: str
    target: str
    attributes: MountAttr = MountAttr.NONE
    recursive: bool = False

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.source).text(self.target).u32(self.attributes).u32(self.recursive)

    def __str__(self) -> str:
        return f"mounting {self.source} of the host on {self.target}"


@dataclass(frozen=True, slots=True)
class MakeNode(Step):
    """Make a device node; ``mode`` has the type bits. It replaces a file that is there."""

    op: ClassVar[int] = 10
    path: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path).u32(self.mode).u32(self.major).u32(self.minor).u32(self.uid).u32(self.gid)

    def __str__(self) -> str:
        return f"making the device node {self.path}"


@dataclass(frozen=True, slots=True)
class SymbolicLink(Step):
    """Make a symbolic link; it replaces a file that is there."""

    op: ClassVar[int] = 11
    content: str
    path: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.content).text(self.path)

    def __str__(self) -> str:
        return f"making the symbolic link {self.path}"


@dataclass(frozen=True, slots=True)
class Directory(Step):
    """Make a directory when it is missing, and set its mode and owner."""

    op: ClassVar[int] = 12
    path: str
    mode: int
    uid: int
    gid: int

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path).u32(self.mode).u32(self.uid).u32(self.gid)

    def __str__(self) -> str:
        return f"making the directory {self.path}"


@dataclass(frozen=True, slots=True)
class File(Step):
    """Make a file with this content; it replaces a file or link that is there. Content stays out of ``repr``."""

    op: ClassVar[int] = 13
    path: str
    mode: int
    uid: int
    gid: int
    content: bytes = field(repr=False)

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path).u32(self.mode).u32(self.uid).u32(self.gid).data(self.content)

    def __str__(self) -> str:
        return f"writing the file {self.path}"


@dataclass(frozen=True, slots=True)
class Mask(Step):
    """Cover a file with ``/dev/null``, a directory with an empty one; a missing path is fine."""

    op: ClassVar[int] = 14
    path: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path)

    def __str__(self) -> str:
        return f"masking {self.path}"


@dataclass(frozen=True, slots=True)
class ReadOnly(Step):
    """Make a file or directory, with all mounts below it, read-only; a missing path is fine."""

    op: ClassVar[int] = 15
    path: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path)

    def __str__(self) -> str:
        return f"making {self.path} read-only"


@dataclass(frozen=True, slots=True)
class Pivot(Step):
    """Make the new root ``/`` and let go of the host's tree; paths of the host mean nothing afterwards."""

    op: ClassVar[int] = 16

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "changing to its root"


@dataclass(frozen=True, slots=True)
class Sysctl(Step):
    """Write a kernel parameter by its path below ``/proc/sys``; it must belong to one of the sandbox's namespaces."""

    op: ClassVar[int] = 17
    path: str
    value: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.path).text(self.value)

    def __str__(self) -> str:
        return f"setting {self.path.replace('/', '.')} to {self.value}"


@dataclass(frozen=True, slots=True)
class OomScore(Step):
    """Likelihood, from -1000 to 1000, that process 1 is killed when memory runs out."""

    op: ClassVar[int] = 18
    score: int

    def encode(self, body: Writer, index: Index) -> None:
        body.i32(self.score)

    def __str__(self) -> str:
        return f"setting the out-of-memory score {self.score}"


@dataclass(frozen=True, slots=True)
class ResourceLimit(Step):
    """Set a ``resource.RLIMIT_*``; ``RLIM_INFINITY`` is -1."""

    op: ClassVar[int] = 19
    resource: int
    soft: int
    hard: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(self.resource).u64(self.soft % (1 << 64)).u64(self.hard % (1 << 64))

    def __str__(self) -> str:
        return f"setting resource limit {self.resource}"


@dataclass(frozen=True, slots=True)
class EnterUser(Step):
    """Enter this user namespace and become its root, without supplementary groups."""

    op: ClassVar[int] = 20
    namespace: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.namespace))

    def __str__(self) -> str:
        return "entering its user namespace"


@dataclass(frozen=True, slots=True)
class CapabilitySet(Step):
    """Keep only these capabilities, bit ``n`` being capability ``n``, for good."""

    op: ClassVar[int] = 21
    mask: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u64(self.mask)

    def __str__(self) -> str:
        return "giving up capabilities"


@dataclass(frozen=True, slots=True)
class NoNewPrivs(Step):
    """Executing a program never adds a right again."""

    op: ClassVar[int] = 22

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "setting no_new_privs"


@dataclass(frozen=True, slots=True)
class Seccomp(Step):
    """Install this system call filter, an array of ``struct sock_filter``."""

    op: ClassVar[int] = 23
    program: bytes = field(repr=False)

    def encode(self, body: Writer, index: Index) -> None:
        body.data(self.program)

    def __str__(self) -> str:
        return "installing the system call filter"


@dataclass(frozen=True, slots=True)
class Serve(Step):
    """Report ``READY`` and serve; the last step of every plan, which :class:`Plan` adds."""

    op: ClassVar[int] = 24
    control: int
    listening: int
    sudo_uids: tuple[int, ...] = ()

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.control)).u32(index(self.listening)).u32(len(self.sudo_uids))
        for uid in self.sudo_uids:
            body.u32(uid)

    def __str__(self) -> str:
        return "starting to serve"


@dataclass(frozen=True, slots=True)
class Park(Step):
    """Report ``PARKED`` and wait for the rest of the plan on this socket; the last step of the first part."""

    op: ClassVar[int] = 26
    control: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.control))

    def __str__(self) -> str:
        return "waiting for the rest of the plan"
