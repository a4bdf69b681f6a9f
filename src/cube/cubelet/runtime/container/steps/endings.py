"""The last steps: what it does from then on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cube.cubelet.runtime.container.steps.step import Index, Step
from cube.cubelet.runtime.guest.wire import Writer


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
