"""The small REST resources of envd: health, metrics, environment, and the set-up by the orchestrator."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast

from cube.envd.asgi import Receive, Send, read_body, respond, respond_json
from cube.envd.files.service import json_object
from cube.envd.sandboxes import EnvdSandbox, EnvdSandboxes
from cube.model.errors import InvalidInput, SandboxNotRunning
from cube.model.resources import ResourceUsage

#: Seconds in which the inside of a healthy sandbox answers.
PING_LIMIT = 5.0
_MIB = 1024 * 1024
#: Seconds between the two readings when there is no earlier one to compare with.
_SAMPLE_INTERVAL = 0.05
_STATE_KEY = "cube.envd.rest"
_INIT_LIMIT = 1024 * 1024


@dataclass(slots=True)
class _CpuSample:
    at: float
    cpu_seconds: float


async def get_health(send: Send, sandbox: EnvdSandbox) -> None:
    """``GET /health``: 204 once the inside has answered; raises ``SandboxNotRunning`` when it does not."""
    try:
        async with asyncio.timeout(PING_LIMIT):
            await sandbox.guest.ping()
    except TimeoutError as error:
        raise SandboxNotRunning(sandbox.sandbox_id, "not answering") from error
    await respond(send, 204)


async def get_metrics(send: Send, sandbox: EnvdSandbox, sandboxes: EnvdSandboxes) -> None:
    """``GET /metrics``: processor since the last call, memory and disk now."""
    if _STATE_KEY not in sandbox.state:
        _cpu_percent(sandbox, await sandboxes.usage(sandbox.sandbox_id))
        await asyncio.sleep(_SAMPLE_INTERVAL)
    usage = await sandboxes.usage(sandbox.sandbox_id)
    await respond_json(send, 200, _metrics(sandbox, usage, _cpu_percent(sandbox, usage)))


def _metrics(sandbox: EnvdSandbox, usage: ResourceUsage, cpu_percent: float) -> dict[str, object]:
    limits = sandbox.resources
    used = max(0, usage.memory_bytes - usage.memory_cache_bytes)
    return {
        "ts": int(time.time()),
        "cpu_count": limits.cpu_count,
        "cpu_used_pct": cpu_percent,
        "mem_total": limits.memory_mb * _MIB,
        "mem_used": used,
        "mem_cache": usage.memory_cache_bytes,
        "mem_total_mib": limits.memory_mb,
        "mem_used_mib": used // _MIB,
        "disk_used": usage.disk_bytes,
        "disk_total": limits.disk_mb * _MIB,
    }


def _cpu_percent(sandbox: EnvdSandbox, usage: ResourceUsage) -> float:
    """Share of all its cores since the last sample, in percent with two digits."""
    now = _CpuSample(time.monotonic(), usage.cpu_seconds)
    before = cast(_CpuSample, sandbox.state.get(_STATE_KEY, now))
    sandbox.state[_STATE_KEY] = now
    elapsed = (now.at - before.at) * sandbox.resources.cpu_count
    return round(100 * (now.cpu_seconds - before.cpu_seconds) / elapsed, 2) if elapsed > 0 else 0.0


async def get_envs(send: Send, sandbox: EnvdSandbox) -> None:
    """``GET /envs``: the environment variables of the sandbox."""
    await respond_json(send, 200, sandbox.env_vars)


async def post_init(receive: Receive, send: Send, sandbox: EnvdSandbox) -> None:
    """``POST /init``: set up by the orchestrator, never by the public.

    Fields that are absent or null stay as they are; fields that this agent has no use for are ignored.
    """
    body = json_object(await read_body(receive, _INIT_LIMIT) or b"{}")
    token, user = _text(body, "accessToken"), _text(body, "defaultUser")
    workdir, env_vars = _text(body, "defaultWorkdir"), _texts(body, "envVars")
    sandbox.access_token = token or sandbox.access_token
    sandbox.default_user = user or sandbox.default_user
    sandbox.default_workdir = workdir or sandbox.default_workdir
    sandbox.env_vars.update(env_vars)
    await respond(send, 204)


def _text(body: dict[str, object], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str | None):
        raise InvalidInput(f"{field} must be a string", field=field)
    return value or ""


def _texts(body: dict[str, object], field: str) -> dict[str, str]:
    value = body.get(field) or {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidInput(f"{field} must map names to strings", field=field)
    return value
