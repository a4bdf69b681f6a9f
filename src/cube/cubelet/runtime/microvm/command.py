"""QEMU's command line: which machine is started, and from what.

Everything that belongs to one machine arrives as a descriptor, so that QEMU's file system has nothing of it but the
memory file. The order of the devices is part of every saved state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cube.model.resources import Resources

#: Where things are in the tree that QEMU has as its root.
PROGRAM: Final = "/bin/qemu"
LIBRARIES: Final = "/lib"
GUARD: Final = "/lib/vmm-guard.so"
MODULES: Final = "/lib/qemu"
FIRMWARE: Final = "/share"
MEMORY: Final = "/memory"
KERNEL: Final = "/boot/kernel"
INITRAMFS: Final = "/boot/initramfs"

#: Descriptors of the process, in the order in which they are handed over. The last one makes it a zygote.
MONITOR, SECOND_MONITOR, CONTROL, IMAGE, LAYER, TAP, FORKS = range(3, 10)

#: MiB that QEMU keeps translated code in when it emulates the processor; more is thrown away and translated again.
TRANSLATED_MB: Final = 128
#: KiB of the last words of the guest that are kept.
_CONSOLE_KIB: Final = 64
_MAC: Final = "02:63:75:62:65:02"

#: QEMU's system call filter: all of its deny lists, and what a zygote needs to fork and to have its forks be others.
_FILTER: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_ZYGOTES_FILTER: Final = "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a saved state fits into: two machines that are equal here are interchangeable."""

    accelerator: str
    cpu: str
    cpus: int
    memory_mb: int
    network: bool

    @classmethod
    def of(cls, resources: Resources, accelerator: str, *, network: bool = True) -> Machine:
        """The machine for a template's resources."""
        cpu = "host" if accelerator == "kvm" else "max"
        return cls(accelerator, cpu, resources.cpu_count, resources.memory_mb, network)


@dataclass(frozen=True, slots=True)
class ColdBoot:
    """Start from a kernel instead of a saved state; ``append`` is its command line."""

    append: str


def arguments(machine: Machine, boot: ColdBoot | None, *, zygote: bool = False) -> list[str]:
    """The whole command line, with the program's name first. Without ``boot`` it waits for a state to load."""
    return [
        PROGRAM,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "none"),
        *("-sandbox", _ZYGOTES_FILTER if zygote else _FILTER),
        *("-L", FIRMWARE),
        *_processor(machine),
        *_memory(machine),
        *_monitors(),
        *_devices(machine),
        *_start(boot),
    ]


def layout(machine: Machine) -> str:
    """What names the devices of a machine and their order: a saved state fits into the same ones alone."""
    return hashlib.sha256("\0".join(arguments(machine, None)).encode()).hexdigest()[:16]


def environment() -> tuple[str, ...]:
    """The whole environment."""
    return (f"LD_LIBRARY_PATH={LIBRARIES}", f"LD_PRELOAD={GUARD}", f"QEMU_MODULE_DIR={MODULES}")


def _processor(machine: Machine) -> Iterator[str]:
    # No timers and controllers of a PC: their calibration is a matter of luck under emulation, and nobody needs them.
    board = "microvm,acpi=on,rtc=off,pic=off,pit=off,isa-serial=off,usb=off,memory-backend=memory"
    yield from ("-machine", board, "-cpu", machine.cpu, "-smp", str(machine.cpus))
    emulated = f"tcg,thread=multi,tb-size={TRANSLATED_MB}"
    yield from ("-accel", emulated if machine.accelerator == "tcg" else machine.accelerator)


def _memory(machine: Machine) -> Iterator[str]:
    size = f"{machine.memory_mb}M"
    yield from ("-m", size, "-object", f"memory-backend-file,id=memory,size={size},mem-path={MEMORY},share=on")


def _monitors() -> Iterator[str]:
    """The service's, and one for people with ``cubecli vm``."""
    for name, descriptor in (("monitor", MONITOR), ("second", SECOND_MONITOR)):
        yield from ("-chardev", f"socket,id={name},fd={descriptor},server=on,wait=off")
        yield from ("-mon", f"chardev={name},mode=control")


def _devices(machine: Machine) -> Iterator[str]:
    yield from ("-global", "virtio-mmio.force-legacy=false")
    yield from ("-device", "virtio-serial-device,max_ports=2")
    yield from ("-chardev", f"ringbuf,id=console,size={_CONSOLE_KIB}K", "-device", "virtconsole,nr=0,chardev=console")
    yield from ("-chardev", f"socket,id=control,fd={CONTROL},server=on,wait=off")
    yield from ("-device", "virtserialport,nr=1,chardev=control,name=cube.control")
    yield from _disk("image", IMAGE, "read-only=on,auto-read-only=off")
    # Nothing of a sandbox survives a crash of the host, so nothing waits for its disk.
    yield from _disk("layer", LAYER, "discard=unmap,cache.no-flush=on", "discard=on,write-cache=on")
    if machine.network:
        yield from ("-netdev", f"tap,id=net,fd={TAP}", "-device", f"virtio-net-device,netdev=net,mac={_MAC}")
    yield from ("-device", "virtio-balloon-device,id=balloon,free-page-reporting=on", "-device", "virtio-rng-device")


def _disk(name: str, descriptor: int, options: str, device: str = "") -> Iterator[str]:
    # A disk that is full is the guest's to deal with: the machine goes on.
    faults = "werror=report,rerror=report"
    more = f",{device}" if device else ""
    number = descriptor
    yield from ("-add-fd", f"fd={descriptor},set={number}")
    yield from ("-blockdev", f"driver=file,node-name={name},filename=/dev/fdset/{number},locking=off,{options}")
    yield from ("-device", f"virtio-blk-device,drive={name},serial=cube-{name},{faults}{more}")


def _start(boot: ColdBoot | None) -> Iterator[str]:
    if boot is None:
        yield from ("-incoming", "defer", "-S")
    else:
        yield from ("-kernel", KERNEL, "-initrd", INITRAMFS, "-append", boot.append, "-S")
