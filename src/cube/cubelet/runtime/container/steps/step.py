"""What all launch steps have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cube.cubelet.runtime.guest.wire import Writer

#: Turns a descriptor into its index in the message.
Index = Callable[[int], int]


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
