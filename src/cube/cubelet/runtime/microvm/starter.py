"""Starts machines in seats: from a capture's memory, or from a kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.runtime.container import users
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.microvm import accelerator, capture, command, layers, vmm
from cube.cubelet.runtime.microvm.boot import BootFiles, command_line
from cube.cubelet.runtime.microvm.capture import Fit
from cube.cubelet.runtime.microvm.channel import Door
from cube.cubelet.runtime.microvm.command import ColdBoot, Machine
from cube.cubelet.runtime.microvm.emulator import Emulator
from cube.cubelet.runtime.microvm.jail import Jail
from cube.cubelet.runtime.microvm.seats import Seat, Seats, places
from cube.cubelet.runtime.microvm.stopwatch import Stopwatch
from cube.cubelet.runtime.microvm.vmm import Doors, Drives, Vmm
from cube.cubelet.storage.images import ImageStore
from cube.model.errors import SnapshotDamaged, TemplateNotFound, Unavailable
from cube.model.resources import Resources
from cube.model.template import Template
from cube.settings import ID_RANGE, Settings


@dataclass(frozen=True, slots=True)
class Started:
    """A machine that stands still before its first instruction, and what it began with."""

    vmm: Vmm
    #: The open file that its memory began with, closed with it; and its device and inode number.
    base: int
    memory: tuple[int, int]
    #: How its guest is reached first.
    control: Door

    async def give_up(self) -> None:
        """End it before its guest was reached. Raises ``HostError``."""
        if isinstance(self.control, socket.socket):
            self.control.close()
        await self.vmm.kill()


class Starter:
    """Puts seat, image, layer, QEMU and launcher together."""

    def __init__(self, settings: Settings, images: ImageStore, launcher: Launcher, seats: Seats) -> None:
        self._settings = settings
        self._images = images
        self._launcher = launcher
        self._seats = seats
        self._stage = settings.run_dir / "vm" / "stage"
        self._doors = settings.run_dir / "vm"
        self._booting = asyncio.Lock()
        self._boot_files: BootFiles | None = None
        self._emulator: Emulator | None = None
        self.accelerator = "tcg"

    async def prepare(self, emulator: Emulator, verdict: accelerator.Verdict) -> None:
        """Take note of what machines are started with."""
        self._emulator, self.accelerator = emulator, verdict.accelerator
        await asyncio.to_thread(self._stage.mkdir, parents=True, exist_ok=True, mode=0o700)

    @property
    def emulator(self) -> Emulator:
        """QEMU."""
        if self._emulator is None:
            raise Unavailable("QEMU is not ready: the service is starting or stopping")
        return self._emulator

    def machine(self, resources: Resources) -> Machine:
        """The machine for these resources on this node."""
        return Machine.of(resources, self.accelerator)

    def fit(self, resources: Resources) -> Fit:
        """What captured memory must fit into here."""
        machine = self.machine(resources)
        processor = accelerator.processor() if self.accelerator == "kvm" else machine.cpu
        return Fit(self.emulator.version, processor, machine, command.layout(machine))

    def doors(self, seat: Seat) -> Doors:
        """The sockets of the machine in a seat."""
        return Doors(self._doors, seat.name)

    async def boot_files(self) -> BootFiles:
        """Kernel and initramfs, made when they are missing. Raises ``HostError``, ``Unsupported``."""
        async with self._booting:
            if self._boot_files is None:
                self._boot_files = await BootFiles.ensure(self._settings)
            return self._boot_files

    async def load(
        self,
        seat: Seat,
        template: Template,
        resources: Resources,
        source: Path,
        disk: Path,
        watch: Stopwatch,
        *,
        forks: int | None = None,
    ) -> Started:
        """Start from the memory and devices of a capture in ``source``, with this disk; what fits was checked before.

        ``forks`` makes it a zygote, see :func:`vmm.start`.
        Raises ``SnapshotDamaged`` when QEMU does not take the state, ``HostError``.
        """
        started = await self._start(seat, template, resources, source / capture.MEMORY, disk, None, forks)
        watch.lap("qemu")
        try:
            with layers.opened(source / capture.DEVICES, os.O_RDONLY) as state:
                await started.vmm.load(state)
            watch.lap("state")
        except vmm.VmmEnded as error:
            await started.vmm.kill()
            raise SnapshotDamaged(f"QEMU does not take the captured state: {error.message}") from error
        except BaseException:
            await asyncio.shield(started.vmm.kill())
            raise
        return started

    async def free(self, seat: Seat) -> None:
        """Give a seat back, with all that is in it. Raises ``HostError`` when something in it does not end."""
        self.doors(seat).remove()
        await self._seats.leave(seat)

    async def boot(self, seat: Seat, template: Template, resources: Resources, layer: Path) -> Started:
        """Start from a kernel over the disk in ``layer``, with empty memory beside it. Raises ``HostError``."""
        memory = await asyncio.to_thread(layers.empty_memory, layer, resources)
        return await self._start(seat, template, resources, memory, layer / capture.DISK, await self.boot_files())

    async def _start(
        self,
        seat: Seat,
        template: Template,
        resources: Resources,
        memory: Path,
        disk: Path,
        boot: BootFiles | None,
        forks: int | None = None,
    ) -> Started:
        namespace = await self._seats.user_namespace(seat, ids=1 if forks is None else ID_RANGE)
        with ExitStack() as borrowed:
            borrowed.callback(os.close, namespace)
            image = borrowed.enter_context(self._image(template))
            layer = borrowed.enter_context(layers.opened(disk, os.O_RDWR))
            base = borrowed.enter_context(layers.opened(memory, os.O_RDONLY))
            began = os.fstat(base)
            jail = Jail(
                self._stage,
                self.emulator.tree,
                memory,
                namespace,
                seat.uid,
                kvm=self.accelerator == "kvm",
                boot=None if boot is None else (boot.kernel, boot.initramfs),
                zygote=forks is not None,
            )
            machine = await vmm.start(
                self._launcher,
                jail,
                list(places(seat, borrowed)),
                self.machine(resources),
                Drives(image, layer, seat.link.descriptor),
                self.doors(seat),
                None if boot is None else self._cold_boot(template, resources),
                forks,
            )
            # The machine's now, to be closed with it.
            machine.owns(os.dup(base))
        return Started(machine, machine.owned[0], (began.st_dev, began.st_ino), self.doors(seat).control)

    @contextmanager
    def _image(self, template: Template) -> Iterator[int]:
        try:
            handle = os.open(self._images.file(template), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise TemplateNotFound(template.template_id) from error
        try:
            yield handle
        finally:
            os.close(handle)

    def _cold_boot(self, template: Template, resources: Resources) -> ColdBoot:
        uids = users.user_ids(self._images.mount(template), template.config.sudo_users)
        emulated = self.accelerator == "tcg"
        return ColdBoot(command_line(sudo_uids=uids, pids=resources.pids, console="hvc0", emulated=emulated))
