"""Whether KVM is of use: found out by booting a guest, for a /dev/kvm may exist and still hang every stock kernel."""

from __future__ import annotations

import asyncio

from cube.cubelet.doctor.check import Check, limited, ok, unknown
from cube.cubelet.runtime.microvm import accelerator
from cube.settings import Settings

_CONSEQUENCE = (
    "MicroVMs are emulated (accelerator tcg), which is slow and no boundary by itself; "
    "by default sandboxes run as containers, which share the host's kernel."
)


def boots_a_guest() -> Check:
    """Boot a kernel without a root file system under KVM; the service uses the answer from its next start on."""
    verdict = asyncio.run(accelerator.find_out(Settings()))
    if verdict.boots is None:
        return unknown(verdict.reason, _CONSEQUENCE)
    if not verdict.boots:
        return limited(verdict.reason, _CONSEQUENCE)
    return ok(f"{verdict.reason} (accelerator kvm)")
