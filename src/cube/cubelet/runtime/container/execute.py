"""The last step of a plan that serves no sandbox but becomes a program, such as a virtual machine's process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cube.cubelet.runtime.container.steps import Index, Step
from cube.cubelet.runtime.guest.wire import Writer


@dataclass(frozen=True, slots=True)
class Execute(Step):
    """Become a program of the new root; the last step of a plan that serves no sandbox.

    The program gets ``errors`` as its standard error, ``descriptors`` as 3, 4, … in this order, and no other. The
    ``control`` socket closes when it runs.
    """

    op: ClassVar[int] = 28
    control: int
    errors: int
    path: str
    argv: tuple[str, ...]
    environment: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.control)).u32(index(self.errors)).text(self.path)
        for strings in (self.argv, self.environment):
            body.u32(len(strings))
            for string in strings:
                body.text(string)
        body.u32(len(self.descriptors))
        for descriptor in self.descriptors:
            body.u32(index(descriptor))

    def __str__(self) -> str:
        return f"executing {self.path}"
