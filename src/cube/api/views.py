"""From the values of the model to the bodies that clients get."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from cube.api.schemas.metrics import SandboxMetric
from cube.api.schemas.network import SandboxNetwork
from cube.api.schemas.sandboxes import (
    ConnectedSandbox,
    ListedSandbox,
    MountedVolume,
    SandboxDetail,
    SandboxLifecycle,
)
from cube.api.schemas.snapshots import SnapshotInfo
from cube.api.schemas.templates import CubeCa, TemplateBuild, TemplateDetail, TemplateSummary
from cube.envd.version import ENVD_VERSION
from cube.master.sandboxes.lifecycle import VisibleState, visible_state
from cube.master.sandboxes.usage import UsageSample
from cube.model.errors import SandboxNotFound
from cube.model.mounts import VolumeMount
from cube.model.network_wire import shown
from cube.model.sandbox import Ingress, Sandbox
from cube.model.snapshot import Snapshot
from cube.model.template import BakedCa, Template

_MIB = 1024 * 1024
#: Build ids must be UUIDs; ours are derived from fingerprints under this name space.
_BUILDS = uuid.UUID("9a5b5f0e-6b0c-4d57-8c1e-5c5f2f6d7a10")


@dataclass(frozen=True, slots=True)
class Views:
    """What is the same for all sandboxes of a server."""

    #: Name of the node.
    client_id: str
    #: Domain that clients build the sandboxes' host names from.
    domain: str
    #: Kind of isolation that the node's runtime gives.
    isolation: str

    def connected(self, sandbox: Sandbox) -> ConnectedSandbox:
        """Answer of create, connect and resume."""
        return ConnectedSandbox(
            template_id=sandbox.template_id,
            alias=sandbox.template_name,
            sandbox_id=sandbox.sandbox_id,
            client_id=self.client_id,
            envd_version=ENVD_VERSION,
            runtime=sandbox.runtime,
            isolation=self.isolation,
            envd_access_token=sandbox.envd_access_token,
            traffic_access_token=sandbox.ingress.traffic_access_token,
            domain=self.domain,
        )

    def listed(self, sandbox: Sandbox) -> ListedSandbox:
        """An entry of a listing."""
        return ListedSandbox(
            template_id=sandbox.template_id,
            alias=sandbox.template_name,
            sandbox_id=sandbox.sandbox_id,
            client_id=self.client_id,
            envd_version=ENVD_VERSION,
            runtime=sandbox.runtime,
            isolation=self.isolation,
            started_at=sandbox.started_at,
            end_at=sandbox.end_at,
            cpu_count=sandbox.resources.cpu_count,
            memory_mb=sandbox.resources.memory_mb,
            disk_size_mb=sandbox.resources.disk_mb,
            metadata=sandbox.metadata,
            state=_state(sandbox),
            volume_mounts=[_mounted(mount) for mount in sandbox.volume_mounts] or None,
        )

    def detail(self, sandbox: Sandbox) -> SandboxDetail:
        """Answer to a question about one sandbox."""
        return SandboxDetail(
            **self.listed(sandbox).model_dump(),
            envd_access_token=sandbox.envd_access_token,
            domain=self.domain,
            allow_internet_access=sandbox.network.allow_internet_access,
            network=_network(sandbox),
            pause_mode=sandbox.pause_mode if _state(sandbox) is VisibleState.PAUSED else None,
            lifecycle=SandboxLifecycle(auto_resume=sandbox.auto_resume, on_timeout=sandbox.on_timeout.value),
        )


def _mounted(mount: VolumeMount) -> MountedVolume:
    return MountedVolume(name=mount.name, path=mount.mount_path, read_only=mount.read_only or None)


def _network(sandbox: Sandbox) -> SandboxNetwork | None:
    policy, ingress = shown(sandbox.network), sandbox.ingress
    if ingress == Ingress() and not policy:
        return None
    said = {
        **policy,
        "allowPublicTraffic": ingress.traffic_access_token is None,
        "maskRequestHost": ingress.mask_request_host,
    }
    return SandboxNetwork.model_validate(said)


def metric(sample: UsageSample) -> SandboxMetric:
    """A sample of use."""
    return SandboxMetric(
        timestamp=sample.at,
        timestamp_unix=int(sample.at.timestamp()),
        cpu_count=sample.limits.cpu_count,
        cpu_used_pct=sample.cpu_used_pct,
        mem_used=sample.usage.memory_bytes,
        mem_total=sample.limits.memory_mb * _MIB,
        mem_cache=sample.usage.memory_cache_bytes,
        disk_used=sample.usage.disk_bytes,
        disk_total=sample.limits.disk_mb * _MIB,
    )


def snapshot_info(snapshot: Snapshot) -> SnapshotInfo:
    """A snapshot."""
    return SnapshotInfo(
        snapshot_id=snapshot.snapshot_id,
        names=snapshot.names,
        memory=snapshot.memory,
        origin_sandbox_id=snapshot.origin_sandbox_id,
        template_id=snapshot.template.template_id,
        created_at=snapshot.created_at,
        updated_at=snapshot.created_at,
        cpu_count=snapshot.resources.cpu_count,
        memory_mb=snapshot.resources.memory_mb,
        disk_size_mb=snapshot.resources.disk_mb,
        runtime=snapshot.runtime,
        metadata=snapshot.metadata,
    )


def template_summary(template: Template) -> TemplateSummary:
    """An entry in the list of templates."""
    return TemplateSummary(
        template_id=template.template_id,
        build_id=_build_id(template),
        cpu_count=template.resources.cpu_count,
        memory_mb=template.resources.memory_mb,
        disk_size_mb=template.resources.disk_mb,
        aliases=list(template.names),
        names=list(template.names),
        created_at=template.created_at,
        updated_at=template.created_at,
        envd_version=ENVD_VERSION,
        image_size=template.image_bytes,
        fingerprint=template.fingerprint,
        code_interpreter=template.code_interpreter,
    )


def template_detail(template: Template) -> TemplateDetail:
    """Answer to a question about one template."""
    build = TemplateBuild(
        build_id=_build_id(template),
        created_at=template.created_at,
        updated_at=template.created_at,
        finished_at=template.created_at,
        cpu_count=template.resources.cpu_count,
        memory_mb=template.resources.memory_mb,
        disk_size_mb=template.resources.disk_mb,
        envd_version=ENVD_VERSION,
    )
    return TemplateDetail(**template_summary(template).model_dump(), builds=[build], cube_ca=cube_ca(template.cube_ca))


def cube_ca(baked: BakedCa | None) -> CubeCa:
    """The certificate of the outbound proxy in an image."""
    if baked is None:
        return CubeCa(baked=False, fingerprint=None, targets_written=[])
    return CubeCa(baked=True, fingerprint=baked.fingerprint, targets_written=list(baked.targets_written))


def _build_id(template: Template) -> uuid.UUID:
    return uuid.uuid5(_BUILDS, f"{template.template_id}:{template.fingerprint}")


def _state(sandbox: Sandbox) -> VisibleState:
    state = visible_state(sandbox.state)
    if state is None:
        raise SandboxNotFound(sandbox.sandbox_id)
    return state
