"""Steps that make the file system that it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cube.cubelet.runtime.container.steps.step import Index, Step
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.guest.wire import Writer

#: Longest value that ``fsconfig`` takes, in bytes.
_OPTION_MAX = 255


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
