"""Between the values of the model and the rows of the tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from cube.master.store.secretbox import SecretBox
from cube.model.mounts import HostMount, VolumeMount
from cube.model.network import NetworkConfig
from cube.model.network_wire import restored, stored
from cube.model.resources import Resources
from cube.model.sandbox import Ingress, OnTimeout, PauseMode, Sandbox, SandboxSpec, SandboxState
from cube.model.snapshot import Snapshot
from cube.model.template import Template

_TEMPLATE = TypeAdapter(Template)
#: What sandboxes of versions without policies might reach.
_OF_OLD = NetworkConfig(allow_internet_access=False)


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """A sandbox and the template that it was cloned from, as that was then."""

    sandbox: Sandbox
    template: Template

    @property
    def spec(self) -> SandboxSpec:
        """What a node needs to run it."""
        return SandboxSpec(
            sandbox_id=self.sandbox.sandbox_id,
            template=self.template,
            resources=self.sandbox.resources,
            env_vars=self.sandbox.env_vars,
            envd_access_token=self.sandbox.envd_access_token,
            host_mounts=self.sandbox.host_mounts,
            snapshot_id=self.sandbox.snapshot_id,
            volume_mounts=self.sandbox.volume_mounts,
            network=self.sandbox.network,
        )


def template_manifest(template: Template) -> dict[str, Any]:
    """A template as JSON values."""
    manifest: dict[str, Any] = _TEMPLATE.dump_python(template, mode="json")
    return manifest


def template_digest(manifest: dict[str, Any]) -> str:
    """Names a revision of a template: equal digests, equal manifests."""
    return hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def sandbox_row(sandbox: Sandbox, digest: str, box: SecretBox) -> dict[str, Any]:
    """The row of a sandbox whose template revision is ``digest``."""
    return {
        "sandbox_id": sandbox.sandbox_id,
        "template_id": sandbox.template_id,
        "template_name": sandbox.template_name,
        "template_digest": digest,
        "state": sandbox.state.value,
        "started_at": sandbox.started_at,
        "end_at": sandbox.end_at,
        "on_timeout": sandbox.on_timeout.value,
        "auto_resume": sandbox.auto_resume,
        **_resource_columns(sandbox.resources),
        "metadata": sandbox.metadata,
        "secrets": seal(sandbox, box),
        "runtime": sandbox.runtime,
        "snapshot_id": sandbox.snapshot_id,
        "auto_pause_mode": sandbox.auto_pause_mode.value,
        "pause_mode": sandbox.pause_mode,
    }


def sandbox_record(row: RowMapping, box: SecretBox) -> SandboxRecord:
    """The sandbox of a row joined with its template revision. Raises ``HostError`` when its secrets do not open."""
    secrets = orjson.loads(box.open(row["secrets"], row["sandbox_id"].encode()))
    sandbox = Sandbox(
        sandbox_id=row["sandbox_id"],
        template_id=row["template_id"],
        template_name=row["template_name"],
        state=SandboxState(row["state"]),
        started_at=row["started_at"],
        end_at=row["end_at"],
        on_timeout=OnTimeout(row["on_timeout"]),
        auto_resume=row["auto_resume"],
        resources=_resources(row),
        metadata=row["metadata"],
        env_vars=secrets["env_vars"],
        envd_access_token=secrets["envd_access_token"],
        runtime=row["runtime"],
        ingress=Ingress(**secrets.get("ingress", {})),
        host_mounts=_host_mounts(secrets),
        snapshot_id=row["snapshot_id"],
        auto_pause_mode=PauseMode(row["auto_pause_mode"]),
        pause_mode=None if row["pause_mode"] is None else PauseMode(row["pause_mode"]),
        volume_mounts=tuple(VolumeMount(**mount) for mount in secrets.get("volume_mounts", ())),
        network=restored(secrets["network"]) if "network" in secrets else _OF_OLD,
    )
    return SandboxRecord(sandbox, _TEMPLATE.validate_python(row["manifest"]))


def snapshot_row(snapshot: Snapshot, digest: str, box: SecretBox) -> dict[str, Any]:
    """The row of a snapshot over the template revision ``digest``."""
    secrets = {"env_vars": snapshot.env_vars, "host_mounts": snapshot.host_mounts}
    return {
        "snapshot_id": snapshot.snapshot_id,
        "name": snapshot.name,
        "origin_sandbox_id": snapshot.origin_sandbox_id,
        "template_digest": digest,
        "created_at": snapshot.created_at,
        "runtime": snapshot.runtime,
        "memory": snapshot.memory,
        **_resource_columns(snapshot.resources),
        "metadata": snapshot.metadata,
        "secrets": box.seal(orjson.dumps(secrets), snapshot.snapshot_id.encode()),
    }


def snapshot_record(row: RowMapping, box: SecretBox) -> Snapshot:
    """The snapshot of a row joined with its template revision. Raises ``HostError`` when its secrets do not open."""
    secrets = orjson.loads(box.open(row["secrets"], row["snapshot_id"].encode()))
    return Snapshot(
        snapshot_id=row["snapshot_id"],
        name=row["name"],
        origin_sandbox_id=row["origin_sandbox_id"],
        template=_TEMPLATE.validate_python(row["manifest"]),
        created_at=row["created_at"],
        runtime=row["runtime"],
        memory=row["memory"],
        resources=_resources(row),
        metadata=row["metadata"],
        env_vars=secrets["env_vars"],
        host_mounts=_host_mounts(secrets),
    )


def _host_mounts(secrets: dict[str, Any]) -> tuple[HostMount, ...]:
    return tuple(HostMount(**mount) for mount in secrets.get("host_mounts", ()))


def seal(sandbox: Sandbox, box: SecretBox) -> bytes:
    """What of a sandbox is stored encrypted."""
    secrets = {
        "env_vars": sandbox.env_vars,
        "envd_access_token": sandbox.envd_access_token,
        "ingress": sandbox.ingress,
        "host_mounts": sandbox.host_mounts,
        "volume_mounts": sandbox.volume_mounts,
        "network": stored(sandbox.network),
    }
    return box.seal(orjson.dumps(secrets), sandbox.sandbox_id.encode())


def _resource_columns(resources: Resources) -> dict[str, int]:
    return {
        "cpu_count": resources.cpu_count,
        "memory_mb": resources.memory_mb,
        "disk_mb": resources.disk_mb,
        "pids": resources.pids,
        "open_files": resources.open_files,
    }


def _resources(row: RowMapping) -> Resources:
    return Resources(
        cpu_count=row["cpu_count"],
        memory_mb=row["memory_mb"],
        disk_mb=row["disk_mb"],
        pids=row["pids"],
        open_files=row["open_files"],
    )
