"""The network agent: links handed out, what a policy costs beside many, throughput under one, and its recovery.

All of it on machines of its own, in namespaces: neither the running service nor the real network has a part in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

import httpx

from cube.bench import netground
from cube.bench.load import Bars, RoundFailed, Samples
from cube.bench.report import Figure, Report, rate
from cube.cubelet.cgroups.events import poll_until
from cube.model.network import NetworkConfig
from cube.netagent.agent import NetworkAgent
from cube.netagent.compiled import NodeDefaults, compiled
from cube.netagent.networks.service import Networks
from cube.netagent.networks.state import Kind, Wanted
from cube.netagent.policies import Policies
from cube.netagent.tap import TapLink
from cube.netagent.veth import Link
from cube.settings import Settings

_INSTANCE: Final = "netbench"
_NETWORK: Final = "10.64.0.0/16"
_POLICY: Final = NetworkConfig(deny_out=("0.0.0.0/0",), allow_out=tuple(f"203.0.113.{host}" for host in range(1, 21)))
#: Policies that exist in the two halves of that measurement.
_FEW, _MANY = 10, 1000
_SECONDS: Final = 1.0
_TURNS: Final = 3
_POOL: Final = 32
#: Networks that the recovered agent has to have again.
_KEPT: Final = 50
_PATIENCE: Final = 60.0
#: Characters of what an agent said before it ended that are told.
_LAST_WORDS: Final = 500


async def measure(workspace: Path, bars: Bars, count: int, command: str) -> Report:
    """Everything in one run. Raises ``RoundFailed``, ``PermissionError`` without root."""
    report = Report("network", command, {"count": count})
    with netground.machine() as ground:
        settings = _settings(workspace)
        async with _agent(settings) as (agent, networks):
            for kind in Kind:
                await _ensure(agent, networks, kind, count, report, bars)
            await _tap_files(agent, networks, count, report, bars)
        await _many(count, report, settings)
        report.figures |= await _throughput(ground, settings)
    with netground.machine():
        report.figures["recovery after kill -9, all networks"] = await _recovery(workspace / "recovery")
    return report


def _settings(workspace: Path) -> Settings:
    return Settings(
        instance=_INSTANCE,
        network_cidr=_NETWORK,
        run_dir=workspace / "run",
        state_dir=workspace / "state",
        seat_pool=_POOL,
    )


@asynccontextmanager
async def _agent(settings: Settings) -> AsyncIterator[tuple[NetworkAgent, Networks]]:
    agent = NetworkAgent(settings)
    networks = Networks(settings, agent)
    try:
        await agent.start()
        await networks.start()
        await asyncio.gather(agent.taps.start(), agent.veths.start())
        yield agent, networks
    finally:
        await networks.close()
        await agent.close(remove=True)


async def _timed(work: Awaitable[Any]) -> float:
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


async def _ensure(agent: NetworkAgent, networks: Networks, kind: Kind, count: int, report: Report, bars: Bars) -> None:
    """One after the other, as long as links wait in the pool: an empty one is waited for and not measured."""
    pool = agent.taps if kind is Kind.TAP else agent.veths
    samples, advance = Samples(), bars(f"EnsureNetwork, {kind}", count)
    for number in range(count):
        if not pool.ready:
            await poll_until(lambda: pool.ready == _POOL, _PATIENCE)
        sandbox_id = f"{kind}{number}"
        took = await _timed(networks.ensure(Wanted(sandbox_id, kind, _POLICY)))
        samples.add({"ensure": took, "release": await _timed(networks.release(sandbox_id))})
        samples.elapsed += took
        advance()
    report.samples[f"EnsureNetwork, {kind}"] = samples
    report.figures[f"EnsureNetwork, {kind}"] = rate(samples)


async def _tap_files(agent: NetworkAgent, networks: Networks, count: int, report: Report, bars: Bars) -> None:
    """The three ways to the descriptor of a TAP."""
    network = await networks.ensure(Wanted("files", Kind.TAP, _POLICY))
    samples, advance = Samples(), bars("GetTapFile", count)
    for _ in range(count):
        marks = {"cached": await _timed(networks.file("files", network.interface))}
        if isinstance(network.link, TapLink) and network.link.descriptor is not None:
            os.close(network.link.descriptor)
            network.link = replace(network.link, descriptor=None)
            agent.taps.changed(network.link)
        marks["pool"] = await _timed(networks.file("files", network.interface))
        await agent.taps.discard(network.index)
        network.link = None
        marks["restored"] = await _timed(networks.file("files", network.interface))
        samples.add(marks)
        advance()
    report.samples["GetTapFile"] = samples
    await networks.release("files")


async def _many(count: int, report: Report, settings: Settings) -> None:
    """Adding one policy while few exist, and while many do."""
    async with _agent(settings):
        marks = await asyncio.to_thread(_policies, count)
    samples = Samples()
    for few, many in zip(*marks, strict=True):
        samples.add({f"beside {_FEW}": few, f"beside {_MANY}": many})
    report.samples["adding a policy"] = samples
    report.figures[f"adding a policy beside {_MANY} / {_FEW}"] = Figure(
        round(median(marks[1]) / median(marks[0]), 3), "times"
    )


def _policies(count: int) -> tuple[list[float], list[float]]:
    policies, policy = Policies(_INSTANCE), compiled(_POLICY, NodeDefaults())
    base, fresh = IPv4Address("10.64.0.1"), IPv4Address("10.64.200.1")
    policies.open()
    try:
        found: list[list[float]] = []
        for there in (_FEW, _MANY):
            for number in range(len(policies.addresses()), there):
                policies.set(base + 2 * number, policy)
            found.append([_added(policies, fresh + 2 * number, policy) for number in range(count)])
        return found[0], found[1]
    finally:
        policies.close()


def _added(policies: Policies, address: IPv4Address, policy: Any) -> float:
    begun = time.perf_counter()
    policies.set(address, policy)
    took = time.perf_counter() - begun
    policies.clear(address)
    return took


async def _throughput(ground: netground.Ground, settings: Settings) -> dict[str, Figure]:
    """One TCP connection to a host beyond: from a sandbox with a policy, and over a plain pair, in turns."""
    seen: dict[str, list[float]] = {"with a policy": [], "plain veth": []}
    with (
        netground.plain_sandbox() as (plain, beyond),
        netground.sink(beyond) as theirs,
        netground.sink(ground.far) as ours,
    ):
        async with _agent(settings) as (_, networks):
            network = await networks.ensure(Wanted("throughput", Kind.VETH, _POLICY))
            if not isinstance(network.link, Link):
                raise RoundFailed("there is no link to measure")
            for _ in range(_TURNS):
                seen["plain veth"].append(await netground.throughput(plain, theirs, _SECONDS))
                seen["with a policy"].append(await netground.throughput(network.link.namespace, ours, _SECONDS))
    figures = {f"TCP, {name}": Figure(round(median(rates) / 1e6), "MB/s") for name, rates in seen.items()}
    share = median(seen["with a policy"]) / median(seen["plain veth"])
    return {**figures, "TCP, with a policy / plain veth": Figure(round(share, 3), "times")}


async def _recovery(workspace: Path) -> Figure:
    """From the kill of an agent until the next one is ready and has every network; the slowest of some rounds."""
    slowest = 0.0
    settings = _settings(workspace)
    process = await _started(settings)
    try:
        for number in range(_KEPT):
            await _post(settings, "ensure", {"sandboxId": f"kept{number}", "kind": "veth"})
        for _ in range(_TURNS):
            begun = time.perf_counter()
            process.kill()
            await process.wait()
            process = await _started(settings)
            if len((await _post(settings, "list", {})).get("networks", [])) != _KEPT:
                raise RoundFailed("networks were lost when the agent was killed")
            slowest = max(slowest, time.perf_counter() - begun)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
    return Figure(round(slowest, 3), "s")


async def _started(settings: Settings) -> asyncio.subprocess.Process:
    """An agent of its own process, that is ready."""
    names = ("instance", "network_cidr", "run_dir", "state_dir", "seat_pool")
    environment = {**os.environ, **{f"CUBE_{name.upper()}": str(getattr(settings, name)) for name in names}}
    line = (sys.executable, "-m", "cube.cli.main", "network-agent")
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*line, env=environment, stdout=log, stderr=log)
        await _ready(process, settings, log)
    return process


async def _ready(process: asyncio.subprocess.Process, settings: Settings, log: IO[bytes]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                if (await _ask(settings, "GET", "/readyz")).is_success:
                    return
            await asyncio.sleep(0.02)
    log.seek(0)
    said = log.read().decode(errors="replace").strip()
    raise RoundFailed(f"the network agent ended with {process.returncode}: {said[-_LAST_WORDS:]}")


async def _post(settings: Settings, path: str, body: object) -> Any:
    return (await _ask(settings, "POST", f"/v1/network/{path}", body)).raise_for_status().json()


async def _ask(settings: Settings, method: str, path: str, body: object = None) -> httpx.Response:
    # Without TLS there is no authority to trust, and reading those of the web takes 36 ms.
    transport = httpx.AsyncHTTPTransport(uds=str(settings.network_socket), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent", timeout=_PATIENCE) as client:
        return await client.request(method, path, json=body)
