"""A microVM that a test starts itself: QEMU with what the guest asks for, and nothing around it.

The runtime starts machines in a jail; here the guest is under test.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cube.cubelet.runtime.microvm.boot import BootFiles, command_line
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.identity import Identity
from cube.settings import Settings
from support.images import CACHE

#: Seconds for a boot under emulation on a machine that does a lot besides.
BOOT_SECONDS = 120.0
_LAYER_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a machine; a copy of another one maps its file without ``share``."""

    size: str = "256M"
    file: Path | None = None
    share: bool = True


MEMORY = Memory()


@dataclass(slots=True)
class Machine:
    """A QEMU process and the sockets that it listens on."""

    directory: Path
    process: subprocess.Popen[bytes]
    arguments: list[str] = field(repr=False)

    @property
    def port(self) -> Path:
        return self.directory / "port"

    @property
    def console(self) -> str:
        """What the guest's kernel and boot have said."""
        return (self.directory / "console").read_text(errors="replace")

    async def ended(self, seconds: float = 60) -> None:
        """Wait until QEMU has ended by itself."""
        await asyncio.to_thread(self.process.wait, seconds)

    async def qmp(self, command: str, **arguments: Any) -> Any:
        """Carry out one command of QEMU's monitor."""
        reader, writer = await asyncio.open_unix_connection(str(self.directory / "qmp"))
        try:
            await reader.readline()
            await _command(reader, writer, "qmp_capabilities", {})
            return await _command(reader, writer, command, arguments)
        finally:
            writer.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


async def _command(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str, arguments: dict[str, Any]
) -> Any:
    writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    async with asyncio.timeout(60):
        while True:
            answer = json.loads(await reader.readline())
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]


async def boot_files() -> BootFiles:
    """Kernel and initramfs of this checkout, kept between runs."""
    return await BootFiles.ensure(Settings(state_dir=CACHE, run_dir=CACHE / "run"))


def erofs(tree: Path, image: Path) -> Path:
    """An image of a directory."""
    subprocess.run(["mkfs.erofs", "--quiet", image, tree], check=True, capture_output=True)
    return image


def new_layer(path: Path) -> Path:
    """An empty writable layer."""
    with path.open("wb") as file:
        file.truncate(_LAYER_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, capture_output=True)
    return path


async def cold_arguments(**options: Any) -> list[str]:
    """What makes QEMU boot."""
    files = await boot_files()
    append = command_line(console="hvc0", **options)
    return ["-kernel", str(files.kernel), "-initrd", str(files.initramfs), "-append", append]


def start(
    directory: Path,
    image: Path | None,
    layer: Path | None,
    more: list[str],
    *,
    memory: Memory = MEMORY,
    port_name: str = "cube.control",
) -> Machine:
    """Start QEMU with its sockets and its console in ``directory``."""
    directory.mkdir(exist_ok=True)
    for name in ("port", "qmp"):
        (directory / name).unlink(missing_ok=True)
    file, share = memory.file or directory / "memory", "on" if memory.share else "off"
    backend = f"memory-backend-file,id=m0,size={memory.size},mem-path={file},share={share}"
    arguments = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-M", "microvm,acpi=on,rtc=off,pic=off,pit=off,isa-serial=off,memory-backend=m0"),
        *("-accel", "tcg", "-cpu", "max", "-m", memory.size, "-object", backend),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-device", "virtio-serial-device", "-device", "virtio-rng-device"),
        *("-chardev", f"file,id=console,path={directory / 'console'}", "-device", "virtconsole,chardev=console"),
        *("-chardev", f"socket,id=port,path={directory / 'port'},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=port,name={port_name}"),
        *("-qmp", f"unix:{directory / 'qmp'},server=on,wait=off", "-netdev", "hubport,id=net,hubid=0"),
        *("-device", "virtio-net-device,netdev=net"),
        *_disk("cube-image", image, "readonly=on,"),
        *_disk("cube-layer", layer, "discard=unmap,cache=unsafe,"),
    ]
    return Machine(directory, subprocess.Popen([*arguments, *more]), more)


def _disk(serial: str, path: Path | None, options: str) -> list[str]:
    if path is None:
        return []
    drive = f"if=none,format=raw,{options}file={path},id={serial},file.locking=off"
    return ["-drive", drive, "-device", f"virtio-blk-device,drive={serial},serial={serial}"]


def identity(generation: int = 1, **changes: Any) -> Identity:
    """An identity for a guest on no network."""
    values: dict[str, Any] = {
        "generation": generation,
        "hostname": "sbx",
        "machine_id": os.urandom(16).hex(),
        "network": None,
        "resolv_conf": "nameserver 192.0.2.1\n",
        "reset_connections": False,
    }
    return Identity(**(values | changes))


@asynccontextmanager
async def booted(directory: Path, image: Path, **options: Any) -> AsyncIterator[tuple[Machine, MicroVMGuest]]:
    """A guest that has booted and has its identity."""
    machine = start(directory, image, new_layer(directory / "layer"), await cold_arguments(**options))
    try:
        guest = await MicroVMGuest.connect(machine.port, "sbx", seconds=BOOT_SECONDS)
        await guest.identify(identity())
        yield machine, guest
        await guest.close()
    finally:
        machine.kill()
