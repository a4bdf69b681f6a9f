"""What the outbound proxy costs and bears: speed, latency, handshakes, large bodies, changes of rules, and crashes."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cube.bench.egress import generator, mitm
from cube.bench.egress.far import BULK, DOMAIN, READY
from cube.bench.egress.generator import load
from cube.bench.egress.ground import ADDRESSES, BULK_HOST, Ground, ground
from cube.bench.egress.node import Node, Policy, node
from cube.bench.load import Bars, RoundFailed, Samples
from cube.bench.report import Figure, Report
from cube.bench.summary import summarise
from cube.egress.audit.log import read

_API = f"api.{DOMAIN}"
_URL = f"https://{_API}/v1/x"
_SECRET = "sk-of-the-benchmark"  # noqa: S105  opens nothing
_CONNECTIONS = 32
_ROUNDS = 3
_CRASHES = 5
_AUDIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured. ``environment`` is where mitmproxy is kept, ``None`` leaves it out."""

    requests: int = 100_000
    policies: int = 1000
    #: Requests of a round that tells how many there are in a second; mitmproxy gets a twentieth.
    round: int = 20_000
    body: int = 1 << 30
    environment: Path | None = None


@dataclass(frozen=True, slots=True)
class _Bench:
    ground: Ground
    node: Node
    workspace: Path
    options: Options
    report: Report

    def note(self, name: str, value: float, unit: str) -> None:
        self.report.figures[name] = Figure(value, unit)

    def keep(self, contestant: str, mark: str, durations: list[float]) -> None:
        samples = self.report.samples.setdefault(contestant, Samples())
        for seconds in durations:
            samples.add({mark: seconds})


async def measure(options: Options, bars: Bars, command: str) -> Report:
    """Everything once. Raises ``RoundFailed``, and ``FileNotFoundError`` when the load generator is not there."""
    generator.require()
    report = Report("egress", command, {"requests": options.requests, "policies": options.policies})
    steps = (_latency, _throughput, _rival, _handshakes, _bulk, _pushes, _crashes, _audit)
    advance = bars("egress", len(steps))
    with tempfile.TemporaryDirectory(prefix="cube-bench-") as workspace:
        os.chmod(workspace, 0o755)  # noqa: S103  the proxies run under ids of their own
        async with _bench(Path(workspace), options, report) as bench:
            for step in steps:
                await step(bench)
                advance()
    return report


@asynccontextmanager
async def _bench(workspace: Path, options: Options, report: Report) -> AsyncIterator[_Bench]:
    with ground() as made, _far(made, workspace):
        async with node(made, workspace, {ADDRESSES["box"]: _policy("box")}) as there:
            bench = _Bench(made, there, workspace, options, report)
            # The first requests look up names and open connections.
            await load(made, "box", _URL, count=500, connections=_CONNECTIONS)
            yield bench


@contextmanager
def _far(made: Ground, workspace: Path) -> Iterator[None]:
    command = made.inside("far", sys.executable, "-m", "cube.bench.egress.far", str(workspace))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101  asked for
        try:
            if process.stdout.readline().strip() != READY:
                raise RoundFailed("the servers of the benchmark did not start")
            yield
        finally:
            process.stdin.close()


def _policy(name: str, *hosts: str) -> Policy:
    """Rules with an injection for one host, and with what the other measures ask for."""
    inject = [{"header": "Authorization", "secret": _SECRET, "format": "Bearer ${SECRET}"}]
    api = {"host": _API, "method": ["GET"], "path": "/v1/*", "scheme": "https"}
    rules: list[dict[str, Any]] = [{"id": "api", "match": api, "action": {"allow": True, "inject": inject}}]
    for host in (*hosts, BULK, f"*.{DOMAIN}"):
        rules.append({"id": host, "match": {"host": host}, "action": {"allow": True}})
    return {"policy_id": name, "rules": rules}


async def _latency(bench: _Bench) -> None:
    """One request after the other over one connection, both ways in turn."""
    durations: dict[str, list[float]] = {"plain": [], "box": []}
    for number in range(_ROUNDS):
        for place, found in durations.items():
            log = bench.workspace / f"requests-{place}-{number}.log"
            found += (
                await load(bench.ground, place, _URL, count=bench.options.round // 10, connections=1, log=log)
            ).durations
    for place, contestant in (("plain", "direct"), ("box", "cube")):
        bench.keep(contestant, "request", durations[place])
    direct, through = summarise(durations["plain"]), summarise(durations["box"])
    bench.note("added latency, p50", round(through.p50 - direct.p50, 3), "ms")
    bench.note("added latency, p99", round(through.p99 - direct.p99, 3), "ms")


async def _throughput(bench: _Bench) -> None:
    bench.note("HTTPS with a rule and an injection", await _rate(bench, "box", bench.options.round), "per second")
    bench.note("the same, direct", await _rate(bench, "plain", bench.options.round), "per second")


async def _rival(bench: _Bench) -> None:
    """mitmproxy with the same rule, and cube again beside it."""
    if bench.options.environment is None:
        bench.report.absent["mitmproxy"] = "it was not asked for"
        return
    try:
        program = await asyncio.to_thread(mitm.installed, bench.options.environment)
        async with mitm.running(bench.ground, program, bench.workspace, host=_API, secret=_SECRET):
            theirs = await _rate(bench, "mitm", bench.options.round // 20)
    except (RoundFailed, TimeoutError) as failure:
        bench.report.absent["mitmproxy"] = str(failure)
        return
    bench.note("the same through mitmproxy", theirs, "per second")
    bench.note("cube beside mitmproxy", round(await _rate(bench, "box", bench.options.round) / theirs, 1), "times")


async def _rate(bench: _Bench, place: str, count: int) -> float:
    rates = [
        (await load(bench.ground, place, _URL, count=count, connections=_CONNECTIONS)).per_second
        for _ in range(_ROUNDS)
    ]
    return round(statistics.median(rates), 1)


async def _handshakes(bench: _Bench) -> None:
    trust = str(bench.node.settings.ca_dir / "cube-root-ca.crt")
    command = bench.ground.inside("box", sys.executable, "-m", "cube.bench.egress.handshakes", trust, "150", "n")
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RoundFailed(f"no handshake: {done.stderr[-300:]}")
    for mark, durations in json.loads(done.stdout).items():
        bench.keep("cube", f"TLS connect, {mark} name", durations)


async def _bulk(bench: _Bench) -> None:
    size = bench.options.body
    for place, name in (("box", "1 GiB body"), ("plain", "1 GiB body, direct")):
        rates = []
        for _ in range(_ROUNDS):
            found = await load(bench.ground, place, f"https://{BULK}/{size}", count=1, connections=1, host=BULK_HOST)
            rates.append(size / 1e6 / found.seconds)
        bench.note(name, round(statistics.median(rates), 1), "MB/s")


async def _pushes(bench: _Bench) -> None:
    """Rules of one sandbox, when many have some."""
    addresses = [f"10.213.{number // 250 + 1}.{number % 250 + 1}" for number in range(bench.options.policies)]
    await bench.node.put_many({address: _policy(address) for address in addresses})
    durations = []
    for number in range(100):
        begun = time.perf_counter()
        await bench.node.put(addresses[number % len(addresses)], _policy("changed", f"h{number}.{DOMAIN}"))
        durations.append(time.perf_counter() - begun)
    bench.keep("cube", "rules in force", durations)


async def _crashes(bench: _Bench) -> None:
    """From the start of a new policy service until it has put new rules in force and minted for a new name."""
    durations = []
    for number in range(_CRASHES):
        bench.node.kill()
        await asyncio.sleep(1)
        begun = time.perf_counter()
        await bench.node.start()
        host = f"crash{number}.{DOMAIN}"
        await bench.node.put(ADDRESSES["box"], _policy("box", host))
        await load(bench.ground, "box", f"https://{host}/", count=1, connections=1)
        durations.append(time.perf_counter() - begun)
    bench.keep("cube", "recovery", durations)
    bench.note("recovery, the longest", round(max(durations), 2), "s")


async def _audit(bench: _Bench) -> None:
    """Requests of which each must be in the log, with the policy service killed in the middle."""
    count = bench.options.requests
    begun = time.perf_counter()
    running = asyncio.create_task(
        load(bench.ground, "box", f"https://{_API}/v1/audited", count=count, connections=_CONNECTIONS)
    )
    rate = bench.report.figures["HTTPS with a rule and an injection"].value
    try:
        await asyncio.sleep(count / rate / 3)
        bench.node.kill()
        await asyncio.sleep(0.5)
        await bench.node.start()
        in_the_middle = not running.done()
        await running
    finally:
        running.cancel()
        await asyncio.wait([running])
    bench.note("requests with a crash in the middle", count, "" if in_the_middle else "(the crash came after them)")
    bench.note("the same, seconds", round(time.perf_counter() - begun, 1), "s")
    told = await asyncio.to_thread(_told, bench.node.settings.egress_log, count)
    bench.note("audit lines lost", count - len(set(told)), "")
    bench.note("audit lines twice", len(told) - len(set(told)), "")


def _told(log: Path, count: int) -> list[str]:
    """The ids of the requests that are in the log, once there are enough or no more come."""
    deadline = time.monotonic() + _AUDIT_SECONDS
    while True:
        found = [
            record["request_id"]
            for record in read(log)
            if record["event"] == "http_request" and record["http"]["path"] == "/v1/audited"
        ]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(1)
