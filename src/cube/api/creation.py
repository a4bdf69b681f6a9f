"""From the body of a create to what the service is asked, and what of E2B's body this server cannot do."""

from __future__ import annotations

from cube.api.host_mounts import KEY, host_mounts
from cube.api.schemas.requests import Network, NewSandbox
from cube.master.sandboxes.requests import CreateSandbox
from cube.model.errors import InvalidInput, Unsupported
from cube.model.sandbox import OnTimeout, PauseMode


def create_request(body: NewSandbox, default_timeout: int) -> CreateSandbox:
    """What the service is asked. Raises ``Unsupported``: a wish that has a meaning is never silently dropped."""
    _require_supported(body)
    metadata = body.metadata or {}
    return CreateSandbox(
        template=body.template_id,
        timeout=default_timeout if body.timeout is None else body.timeout,
        on_timeout=_on_timeout(body),
        auto_resume=_auto_resume(body),
        metadata={key: value for key, value in metadata.items() if key != KEY},
        env_vars={**(body.envs or {}), **(body.env_vars or {})},
        public_traffic=body.network is None or body.network.allow_public_traffic is not False,
        host_mounts=host_mounts(metadata),
        nodes=tuple(body.distribution_scope or ()),
        auto_pause_mode=_auto_pause_mode(body),
        mask_request_host=None if body.network is None else body.network.mask_request_host,
    )


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
        "volumeMounts": bool(body.volume_mounts),
        "iam": bool(body.iam),
        **(_network_wishes(body.network) if body.network else {}),
    }
    for field, wished in wishes.items():
        if wished:
            raise Unsupported(f"{field} is not supported by this server: leave it out")


def _network_wishes(network: Network) -> dict[str, bool]:
    """What of a network configuration needs more than the default policy, by which nothing goes out."""
    return {
        "network.allowOut": bool(network.allow_out),
        "network.dnsServers": bool(network.dns_servers),
        "network.egressProxy": bool(network.egress_proxy),
        "network.rules": bool(network.rules),
        "network.httpsPorts": bool(network.https_ports),
    }
