"""Steps that set limits and give up rights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from cube.cubelet.runtime.container.steps.step import Index, Step
from cube.cubelet.runtime.guest.wire import Writer


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
