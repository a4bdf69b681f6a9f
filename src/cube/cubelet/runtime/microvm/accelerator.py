"""Which accelerator QEMU is started with: ``kvm`` where a guest really boots with it, else ``tcg``, which emulates.

A /dev/kvm may exist and still hang every stock kernel, so the answer is found by booting one, in ten seconds at most.
It is remembered for the versions that it was found with; nobody waits for it at the start of the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from cube.cubelet.runtime.microvm import emulator
from cube.cubelet.runtime.microvm.boot.sources import downloads
from cube.model.errors import CubeError
from cube.settings import Settings

#: A guest that has not printed its first lines by then does not boot. Seconds.
PATIENCE: Final = 10.0
DEVICE: Final = Path("/dev/kvm")
#: Printed by the guest itself: the kernel runs user memory, interrupts and timers by then.
_ALIVE: Final = b"Kernel panic - not syncing: VFS"
#: Bytes of what a guest says that are read at once, and looked at.
_PART: Final = 1 << 16
_LONGEST: Final = 1 << 20
#: The machine that sandboxes get, with a serial port to read from.
_MACHINE: Final = "microvm,acpi=on,rtc=off,pic=off,pit=off,isa-serial=on,usb=off"
_APPEND: Final = "console=ttyS0 panic=-1 reboot=t"
_RECIPE: Final = "apt-get install qemu-system-x86 linux-image-cloud-amd64, or set CUBE_GUEST_KERNEL to a bzImage"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether KVM is of use here."""

    #: ``None`` when nobody could tell yet.
    boots: bool | None
    #: Why, in words.
    reason: str

    @property
    def accelerator(self) -> str:
        """What QEMU is started with."""
        return "kvm" if self.boots else "tcg"


def remembered(settings: Settings) -> Verdict:
    """What is known without booting anything: no device, or an answer that still holds. Blocks for some milliseconds
    when it has to ask QEMU for its version."""
    if (excluded := _excluded()) is not None:
        return excluded
    try:
        found = orjson.loads(_file(settings).read_bytes())
        if found["circumstances"] == _circumstances(settings):
            return Verdict(bool(found["boots"]), str(found["reason"]))
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, CubeError):
        pass
    return Verdict(None, f"{DEVICE} exists, but no guest was booted yet")


async def find_out(settings: Settings) -> Verdict:
    """Boot a guest unless that is out of the question, and remember the answer. Takes ten seconds at most; when it is
    cancelled, the guest ends."""
    if (excluded := _excluded()) is not None:
        return excluded
    program, kernel = shutil.which(emulator.NAME), guest_kernel(settings)
    lacking = [what for what, found in ((emulator.NAME, program), ("a guest kernel", kernel)) if found is None]
    if program is None or kernel is None:
        return Verdict(None, f"no guest was booted: {' and '.join(lacking)} is missing; to find out: {_RECIPE}")
    verdict = await boot(program, kernel, "kvm")
    await asyncio.to_thread(_remember, settings, verdict)
    return verdict


def guest_kernel(settings: Settings) -> Path | None:
    """A kernel to try: ``CUBE_GUEST_KERNEL``, else the newest in /boot, and among those downloaded for microVMs."""
    configured = os.environ.get("CUBE_GUEST_KERNEL")
    if configured:
        return Path(configured)
    places = (Path("/boot"), downloads(settings) / "boot")
    found = (kernel for place in places for kernel in place.glob("vmlinuz-*"))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


async def boot(program: str, kernel: Path, accelerator: str, patience: float = PATIENCE) -> Verdict:
    """Boot ``kernel`` without a root file system and wait until it complains about that, ``patience`` seconds at
    most."""
    command = [
        *(program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "128"),
        *("-machine", _MACHINE, "-accel", accelerator, "-cpu", "max" if accelerator == "tcg" else "host"),
        *("-kernel", str(kernel), "-append", _append(), "-serial", "stdio"),
    ]
    begun = time.monotonic()
    output = await _output(command, patience)
    took = time.monotonic() - begun
    if _ALIVE in output:
        return Verdict(True, f"a guest booted in {took:.1f} s")
    return Verdict(False, f"{DEVICE} exists, but a stock guest kernel {_failure(output, took, patience)}")


async def _output(command: list[str], patience: float) -> bytes:
    """What a program says until it ends, or is ended."""
    guest = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = bytearray()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while guest.stdout is not None and (part := await guest.stdout.read(_PART)):
                    said += part[: _LONGEST - len(said)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            guest.kill()
        await guest.wait()
    return bytes(said)


@functools.cache
def processor() -> str:
    """The host's processor, as far as a guest that uses it directly depends on it."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return f"{fields.get('model name', 'unknown')} (stepping {fields.get('stepping', '?')})"
    return "unknown"


def _append() -> str:
    # Without this the calibration of the time stamp counter is a matter of luck on a machine without timers.
    khz = _time_stamp_khz()
    return f"{_APPEND} tsc_early_khz={khz} tsc=reliable no_timer_check" if khz else _APPEND


def _time_stamp_khz() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("cpu MHz"))
        return int(float(line.split(":")[1]) * 1000)
    return 0


def _failure(output: bytes, took: float, patience: float) -> str:
    ending = f"did not boot within {patience:.0f} s" if took >= patience else f"ended QEMU after {took:.1f} s"
    last = output.decode(errors="replace").strip().splitlines()
    return f"{ending}; its last words: {last[-1][:120]}" if last else f"{ending} and printed nothing"


def _excluded() -> Verdict | None:
    """The answer where no guest need be booted for it."""
    if not DEVICE.exists():
        return Verdict(False, f"there is no {DEVICE}")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Verdict(False, f"{DEVICE} may not be opened")
    return None


def _circumstances(settings: Settings) -> str:
    """What the answer depends on. Raises ``CubeError``."""
    kernel = guest_kernel(settings)
    guest = f"{kernel} {kernel.stat().st_size} {kernel.stat().st_mtime_ns}" if kernel is not None else "none"
    version = emulator.version_of(emulator.find_program())
    return f"qemu {version}; guest {guest}; host {os.uname().release}; {processor()}"


def _file(settings: Settings) -> Path:
    return settings.state_dir / "vm" / "accelerator.json"


def _remember(settings: Settings, verdict: Verdict) -> None:
    path = _file(settings)
    with contextlib.suppress(OSError, CubeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(orjson.dumps({"circumstances": _circumstances(settings), **asdict(verdict)}))
        unfinished.replace(path)
