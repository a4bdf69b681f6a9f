"""Whether KVM is of use: found out by booting a guest, for a /dev/kvm may exist and still hang every stock kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from cube.cubelet.doctor.check import Check, limited, ok, unknown

#: A guest that has not printed its first lines by then does not boot. Seconds.
_PATIENCE = 10.0
_DEVICE = Path("/dev/kvm")
#: Printed by the guest itself: the kernel runs user memory, interrupts and timers by then.
_ALIVE = b"Kernel panic - not syncing: VFS"
_CONSEQUENCE = "Sandboxes run as containers, which share the host's kernel."
_RECIPE = "apt-get install qemu-system-x86 linux-image-cloud-amd64, or set CUBE_GUEST_KERNEL to a bzImage"


def guest_kernel() -> Path | None:
    """A kernel to try: ``CUBE_GUEST_KERNEL``, else the newest in /boot."""
    configured = os.environ.get("CUBE_GUEST_KERNEL")
    if configured:
        return Path(configured)
    kernels = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    return kernels[-1] if kernels else None


def boots_a_guest() -> Check:
    """Boot a kernel without a root file system under KVM and wait until it complains about that."""
    if not _DEVICE.exists():
        return limited("there is no /dev/kvm", _CONSEQUENCE)
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return limited("/dev/kvm may not be opened", _CONSEQUENCE)
    emulator, kernel = shutil.which("qemu-system-x86_64"), guest_kernel()
    if emulator is None or kernel is None:
        lacking = " and ".join(
            name for name, found in (("qemu-system-x86_64", emulator), ("a guest kernel", kernel)) if found is None
        )
        return unknown(f"/dev/kvm exists, but no guest was booted: {lacking} is missing", f"To find out: {_RECIPE}.")
    return boot(emulator, kernel, "kvm")


def boot(emulator: str, kernel: Path, accelerator: str, patience: float = _PATIENCE) -> Check:
    """Boot ``kernel`` with an accelerator of QEMU; never takes longer than ``patience`` seconds."""
    command = [
        *(emulator, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "256"),
        *("-machine", "q35", "-accel", accelerator, "-cpu", "max" if accelerator == "tcg" else "host"),
        *("-kernel", str(kernel), "-append", "console=ttyS0 panic=-1", "-serial", "stdio"),
    ]
    begun = time.monotonic()
    guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = guest.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        guest.kill()
        output, _ = guest.communicate()
    took = time.monotonic() - begun
    if _ALIVE in output:
        return ok(f"a guest booted in {took:.1f} s")
    return limited(f"/dev/kvm exists, but a stock guest kernel {_failure(output, took, patience)}", _CONSEQUENCE)


def _failure(output: bytes, took: float, patience: float) -> str:
    ending = f"did not boot within {patience:.0f} s" if took >= patience else f"ended QEMU after {took:.1f} s"
    last = output.decode(errors="replace").strip().splitlines()
    return f"{ending}; its last words: {last[-1][:120]}" if last else f"{ending} and printed nothing"
