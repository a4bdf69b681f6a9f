"""Starts QEMU processes for one test, without a guest that answers, and ends them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.microvm import vmm
from cube.cubelet.runtime.microvm.command import ColdBoot, Machine
from cube.cubelet.runtime.microvm.emulator import Emulator
from cube.cubelet.runtime.microvm.jail import Jail
from cube.cubelet.runtime.microvm.vmm import Doors, Drives, Vmm

#: Host id of the process.
UID = 0x5000_0000
MACHINE = Machine("tcg", "max", cpus=1, memory_mb=64, network=False)


@dataclass
class Yard:
    """Starts machines for one test, and ends them."""

    directory: Path
    launcher: Launcher
    emulator: Emulator
    user_namespace: int
    machine: Machine = MACHINE
    started: list[Vmm] = field(default_factory=list)

    @property
    def memory(self) -> Path:
        return self.directory / "memory"

    def doors(self, name: str = "vm") -> Doors:
        return Doors(self.directory, name)

    def jail(self, boot: tuple[Path, Path] | None = None) -> Jail:
        tree, stage = self.emulator.tree, self.directory / "stage"
        return Jail(stage, tree, self.memory, self.user_namespace, UID, kvm=False, boot=boot)

    async def start(self, name: str = "vm", boot: ColdBoot | None = None, jail: Jail | None = None) -> Vmm:
        """A machine that does not run yet."""
        image, layer = (
            os.open(self.directory / file, flags | os.O_CLOEXEC)
            for file, flags in (("image", os.O_RDONLY), ("layer", os.O_RDWR))
        )
        drives = Drives(image, layer, None)
        try:
            made = await vmm.start(self.launcher, jail or self.jail(), (), self.machine, drives, self.doors(name), boot)
        finally:
            os.close(image)
            os.close(layer)
        self.started.append(made)
        return made
