"""Which runtime a node has: what the settings name; ``auto`` is microVMs where KVM boots a guest, else containers."""

from __future__ import annotations

import asyncio

import structlog

from cube.cubelet.runtime.base import Runtime
from cube.cubelet.runtime.container.runtime import ContainerRuntime
from cube.cubelet.runtime.microvm import accelerator
from cube.cubelet.runtime.microvm.accelerator import Verdict
from cube.cubelet.runtime.microvm.runtime import MicroVMRuntime
from cube.cubelet.storage.images import ImageStore
from cube.helper.process import Caller
from cube.netagent.agent import NetworkAgent
from cube.settings import Settings

log = structlog.get_logger(__name__)

_NOT_ASKED = Verdict(None, "not asked")


async def choose(
    settings: Settings, images: ImageStore, network: NetworkAgent, helper: Caller | None = None
) -> Runtime:
    """The runtime of this node, not started yet. Nothing is booted to find out."""
    if settings.runtime == "container":
        return ContainerRuntime(settings, images, network, helper)
    verdict = await asyncio.to_thread(accelerator.remembered, settings)
    microvm = settings.runtime == "microvm" or bool(verdict.boots)
    log.info("runtime.chosen", runtime="microvm" if microvm else "container", reason=verdict.reason)
    if microvm:
        return MicroVMRuntime(settings, images, verdict, network)
    return ContainerRuntime(settings, images, network, helper)


async def find_out(settings: Settings) -> None:
    """Boot a guest with KVM where that was never tried, beside all else; the next start makes use of the answer."""
    if settings.runtime == "container":
        return
    if (await asyncio.to_thread(accelerator.remembered, settings)).boots is None:
        verdict = await accelerator.find_out(settings)
        log.info("runtime.kvm_probed", boots=verdict.boots, reason=verdict.reason)


def all_runtimes(settings: Settings, images: ImageStore) -> tuple[Runtime, ...]:
    """Every kind, to take away what any of them has left."""
    return ContainerRuntime(settings, images), MicroVMRuntime(settings, images, _NOT_ASKED)
