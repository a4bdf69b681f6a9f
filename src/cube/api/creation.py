"""From the body of a create to what the service is asked, and what of E2B's body this server cannot do."""

from __future__ import annotations

from collections.abc import Sequence

from cube.api.host_mounts import KEY, host_mounts
from cube.api.networks import network_config
from cube.api.schemas.network import Network
from cube.api.schemas.requests import NewSandbox, VolumeMount
from cube.master.sandboxes.requests import CreateSandbox
from cube.master.volumes.service import WantedMount
from cube.model.errors import InvalidInput, Unsupported
from cube.model.mounts import check_targets, clean_path
from cube.model.network import NetworkConfig
from cube.model.sandbox import OnTimeout, PauseMode


def create_request(body: NewSandbox, default_timeout: int) -> CreateSandbox:
    """What the service is asked. Raises ``Unsupported``: a wish that has a meaning is never silently dropped."""
    _require_supported(body)
    metadata = body.metadata or {}
    directories = host_mounts(metadata)
    volumes = _volume_mounts(body.volume_mounts or [])
    targets = [mount.mount_path for mount in directories] + [mount.mount_path for mount in volumes]
    check_targets(targets, field="volumeMounts")
    return CreateSandbox(
        template=body.template_id,
        timeout=default_timeout if body.timeout is None else body.timeout,
        on_timeout=_on_timeout(body),
        auto_resume=_auto_resume(body),
        metadata={key: value for key, value in metadata.items() if key != KEY},
        env_vars={**(body.envs or {}), **(body.env_vars or {})},
        public_traffic=body.network is None or body.network.allow_public_traffic is not False,
        nodes=tuple(body.distribution_scope or ()),
        host_mounts=directories,
        volume_mounts=volumes,
        auto_pause_mode=_auto_pause_mode(body),
        mask_request_host=None if body.network is None else body.network.mask_request_host,
        network=_network(body),
    )


def _volume_mounts(entries: Sequence[VolumeMount]) -> tuple[WantedMount, ...]:
    return tuple(_volume_mount(entry, f"volumeMounts[{number}].path") for number, entry in enumerate(entries))


def _volume_mount(entry: VolumeMount, field: str) -> WantedMount:
    try:
        return WantedMount(entry.name, clean_path(entry.path), entry.read_only)
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}", field=field) from None


def _on_timeout(body: NewSandbox) -> OnTimeout:
    if body.auto_pause or (body.lifecycle is not None and body.lifecycle.on_timeout == "pause"):
        return OnTimeout.PAUSE
    return OnTimeout.KILL


def _auto_pause_mode(body: NewSandbox) -> PauseMode:
    if body.auto_pause_memory:
        return PauseMode.FULL
    if _auto_resume(body):
        raise InvalidInput(
            "autoResume cannot be combined with autoPauseMemory: false: traffic never starts a sandbox from its files",
            field="autoResume",
        )
    return PauseMode.FILESYSTEM


def _auto_resume(body: NewSandbox) -> bool:
    if body.auto_resume is not None:
        return body.auto_resume.enabled
    return body.lifecycle is not None and body.lifecycle.auto_resume


def _require_supported(body: NewSandbox) -> None:
    wishes = {
        "iam": bool(body.iam),
        "network.httpsPorts": body.network is not None and bool(body.network.https_ports),
    }
    for field, wished in wishes.items():
        if wished:
            raise Unsupported(f"{field} is not supported by this server: leave it out")


def _network(body: NewSandbox) -> NetworkConfig | None:
    """What is said about what it may reach; ``None`` when nothing is."""
    if body.network is None and body.dns_config is None and body.allow_internet_access is None:
        return None
    return network_config(body.network or Network(), access=body.allow_internet_access, dns=body.dns_config)
