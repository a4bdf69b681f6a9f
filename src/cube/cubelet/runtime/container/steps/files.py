"""Steps that make single files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from cube.cubelet.runtime.container.steps.step import Index, Step
from cube.cubelet.runtime.guest.wire import Writer


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
