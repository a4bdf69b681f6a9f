"""A launch plan: the steps of one start in order, and how they travel to the launcher."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from cube.cubelet.runtime.container.steps import Directory, File, MakeNode, Mount, Overlay, Serve, Step, SymbolicLink
from cube.cubelet.runtime.guest.wire import Failure, Writer

#: In the place of a descriptor: the control socket that a parked process holds.
PARKED_CONTROL = -1


def encode_steps(steps: Sequence[Step]) -> tuple[bytes, list[int]]:
    """Body and descriptors of a ``LAUNCH`` message."""
    indexes: dict[int, int] = {PARKED_CONTROL: 0xFFFF_FFFF}
    fds: list[int] = []

    def index(fd: int) -> int:
        if fd not in indexes:
            indexes[fd] = len(fds)
            fds.append(fd)
        return indexes[fd]

    body = Writer().u32(len(steps))
    for step in steps:
        step.encode(body.u16(step.op), index)
    return body.finish(), fds


def describe(steps: Sequence[Step], stage: int) -> str:
    """What was being done at this stage of a failure, as the beginning of a sentence."""
    doing = str(steps[stage]) if stage < len(steps) else "making its first process"
    return f"starting the sandbox: {doing}"


def ran_out_of_room(steps: Sequence[Step], failure: Failure) -> bool:
    """Whether a step found no room for what it writes; the kernel says the same of limits that others meet."""
    full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
    return full and failure.stage < len(steps) and isinstance(steps[failure.stage], _WRITING)


#: Steps that write to the layer of a sandbox, be it the place of a mount.
_WRITING = (Directory, File, MakeNode, Mount, Overlay, SymbolicLink)


@dataclass(slots=True)
class Plan:
    """The steps of one start, without the last. The descriptors in them are borrowed until the start is over."""

    #: Listening control socket, for connections after a restart of the service.
    listening: int
    #: Users, by their ids in the sandbox, that may become root through ``sudo``.
    sudo_uids: tuple[int, ...] = ()
    steps: list[Step] = field(default_factory=list)

    def add(self, *steps: Step) -> None:
        """Append steps."""
        self.steps += steps

    def complete(self, control: int) -> list[Step]:
        """All steps; process 1 serves on ``control`` first."""
        return [*self.steps, Serve(control, self.listening, self.sudo_uids)]

    def encode(self, control: int) -> tuple[bytes, list[int]]:
        """Body and descriptors of the ``LAUNCH`` message."""
        return encode_steps(self.complete(control))
