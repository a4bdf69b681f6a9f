"""The benchmarks of microVMs, on copies of a template with more and less memory."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from cube.bench import code, load, pause
from cube.bench.client import Client, Handle
from cube.bench.density import population
from cube.bench.load import Round, RoundFailed
from cube.bench.report import Figure, Report, rate
from cube.bench.sandboxes import COMMAND, EXPECTED
from cube.bench.stand import Stand
from cube.cubelet.runtime.microvm.record import Records
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.manifest import Manifest
from cube.model.ids import new_template_id

#: MiB of memory of the templates that are measured.
_SMALL, _MIDDLE, _BIG = 256, 512, 4096
#: What no machine that was started ahead has, and that costs nothing.
_UNLIKE = {"allow_internet_access": False}
#: Seconds in which the service makes ready again what a create has taken.
_SETTLE = 4.0
#: Names of the parts.
PARTS = ("clone", "pool", "throughput", "size", "run-code", "pause", "snapshot", "boot", "memory")
#: Sizes that parts use of the resized template, which take a cold boot each; the other parts use the one in the middle.
_SIZES = {"size": (_SMALL, _MIDDLE, _BIG), "pool": (), "run-code": ()}
#: What a start does in the guest.
_IN_GUEST = "guest"
_STOP = "/home/user/bench-stop"
#: Longest time, in microseconds, that two looks at the clock in a row were apart.
_LONGEST_GAP = (
    f"last=${{EPOCHREALTIME/./}}; most=0; while [ ! -e {_STOP} ]; do now=${{EPOCHREALTIME/./}}; gap=$((now-last)); "
    "((gap>most)) && most=$gap; last=$now; done; echo $most"
)


async def measure(
    stand: Stand, base: str, interpreter: str, rounds: int, alive: int, only: Collection[str] = ()
) -> dict[str, Report]:
    """All of them, or those that are named, one after the other. Raises ``FileNotFoundError`` without the templates."""
    chosen = [name for name in PARTS if not only or name in only]
    sizes = {size for name in chosen for size in _SIZES.get(name, (_MIDDLE,))}
    async with _resized(stand, base, sorted(sizes)) as names:
        parts: dict[str, Callable[[], Awaitable[Report]]] = {
            "clone": lambda: _clones(stand, names[_MIDDLE], rounds),
            "pool": lambda: _pool(stand, base, rounds),
            "throughput": lambda: _throughput(stand, names[_MIDDLE], 5 * rounds),
            "size": lambda: _sizes(stand, names, rounds),
            "run-code": lambda: code.measure(stand, rounds, 5, interpreter, _line("run-code"), **_UNLIKE),
            "pause": lambda: pause.measure(stand, rounds, names[_MIDDLE], _line("pause"), **_UNLIKE),
            "snapshot": lambda: _snapshots(stand, names[_MIDDLE], rounds),
            "boot": lambda: _boots(stand, names[_MIDDLE]),
            "memory": lambda: _memory(stand, names[_MIDDLE], alive),
        }
        return {name: await parts[name]() for name in chosen}


@asynccontextmanager
async def _resized(stand: Stand, base: str, sizes: Iterable[int]) -> AsyncIterator[dict[int, str]]:
    """Templates like ``base`` with these MiB of memory, by size; each has been used once."""
    images = ImageStore(stand.settings)
    original = next((one for one in images.load() if base in (one.template_id, *one.names)), None)
    if original is None:
        raise FileNotFoundError(f"there is no template {base!r}")
    made: dict[int, str] = {}
    try:
        for size in sizes:
            resources = replace(original.resources, memory_mb=size)
            template_id = new_template_id()
            image = stand.settings.state_dir / f"{template_id}.image"
            await asyncio.to_thread(shutil.copyfile, images.file(original), image)
            images.install(Manifest(replace(original, template_id=template_id, names=(), resources=resources)), image)
            made[size] = template_id
            await stand.client.kill(await stand.client.create(template_id, **_UNLIKE))
        yield made
    finally:
        for template_id in made.values():
            images.delete(template_id)


def _line(part: str) -> str:
    return f"cube bench --runtime microvm --only {part}"


def _own_work(stand: Stand, sandbox: Handle) -> float:
    """Seconds that its start took outside of the guest."""
    record = Records(stand.settings.run_dir / "vm").read(sandbox.sandbox_id)
    if record is None or not record.began:
        raise RoundFailed("the service does not run microVMs")
    return sum(spent for name, spent in record.began.items() if name != _IN_GUEST) / 1000


async def _answered(client: Client, sandbox: Handle) -> None:
    if (output := await client.command(sandbox, COMMAND)) != EXPECTED:
        raise RoundFailed(f"the command printed {output!r}")


async def _clones(stand: Stand, template: str, rounds: int) -> Report:
    """Creates that nothing was made ready for. Marks: ``create``, ``own work``, ``exec``, ``create+exec``."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        sandbox = await stand.client.create(template, **_UNLIKE)
        created = time.perf_counter()
        try:
            await _answered(stand.client, sandbox)
            answered = time.perf_counter()
            own = _own_work(stand, sandbox)
        finally:
            await stand.client.kill(sandbox)
        whole = answered - begun
        return {"create": created - begun, "own work": own, "exec": answered - created, "create+exec": whole}

    return await _one_by_one(stand, "clone", once, rounds)


async def _pool(stand: Stand, template: str, rounds: int) -> Report:
    """Creates with pauses in between, in which machines are started ahead."""

    async def once() -> dict[str, float]:
        await asyncio.sleep(_SETTLE)
        begun = time.perf_counter()
        sandbox = await stand.client.create(template)
        created = time.perf_counter()
        try:
            await _answered(stand.client, sandbox)
            answered = time.perf_counter()
        finally:
            await stand.client.kill(sandbox)
        return {"create": created - begun, "exec": answered - created, "create+exec": answered - begun}

    return await _one_by_one(stand, "pool", once, rounds)


async def _one_by_one(stand: Stand, name: str, once: Round, rounds: int, warmup: int = 2) -> Report:
    report = Report(name, _line(name), {"count": rounds})
    bar = stand.bars(name, rounds + warmup)
    report.samples["cube"] = await load.run(once, count=rounds, concurrency=1, warmup=warmup, progress=bar)
    return report


async def _throughput(stand: Stand, template: str, count: int) -> Report:
    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        sandbox = await stand.client.create(template, **_UNLIKE)
        created = time.perf_counter()
        await stand.client.kill(sandbox)
        return {"create": created - begun, "kill": time.perf_counter() - created}

    report = Report("throughput", _line("throughput"), {"count": count, "concurrency": 8})
    bar = stand.bars("throughput", count + 8)
    report.samples["cube"] = await load.run(once, count=count, concurrency=8, warmup=8, progress=bar)
    report.figures["cube, sandboxes"] = rate(report.samples["cube"])
    return report


async def _sizes(stand: Stand, names: dict[int, str], rounds: int) -> Report:
    """The sizes take turns, so that noise of the machine meets all alike."""

    async def once() -> dict[str, float]:
        marks = {}
        for size, name in names.items():
            begun = time.perf_counter()
            sandbox = await stand.client.create(name, **_UNLIKE)
            marks[f"{size} MiB"] = time.perf_counter() - begun
            await stand.client.kill(sandbox)
        return marks

    report = await _one_by_one(stand, "size", once, rounds)
    small, big = (report.summary("cube", f"{size} MiB") for size in (_SMALL, _BIG))
    if small and big:
        report.figures[f"{_BIG} MiB beside {_SMALL} MiB"] = Figure(round(big.p50 / small.p50, 3), "times")
    return report


async def _snapshots(stand: Stand, template: str, rounds: int) -> Report:
    """Marks: ``snapshot``, the whole request; ``frozen``, for how long a busy process in it saw the clock jump."""
    sandbox = await stand.client.create(template, 600, **_UNLIKE)

    async def once() -> dict[str, float]:
        watching = asyncio.create_task(stand.client.command(sandbox, _LONGEST_GAP))
        await _answered(stand.client, sandbox)
        begun = time.perf_counter()
        snapshot = await stand.client.snapshot(sandbox)
        taken = time.perf_counter() - begun
        await stand.client.command(sandbox, f"touch {_STOP}")
        gap = int(await watching) / 1e6
        await stand.client.command(sandbox, f"rm {_STOP}")
        await stand.client.delete_snapshot(snapshot)
        return {"snapshot": taken, "frozen": gap}

    try:
        return await _one_by_one(stand, "snapshot", once, rounds)
    finally:
        await stand.client.kill(sandbox)


async def _boots(stand: Stand, template: str) -> Report:
    """A boot as that of a template: a sandbox of which only the files are there is started."""
    sandbox = await stand.client.create(template, 600, **_UNLIKE)

    async def once() -> dict[str, float]:
        await stand.client.pause(sandbox, memory=False)
        begun = time.perf_counter()
        await stand.client.resume(sandbox)
        return {"boot": time.perf_counter() - begun}

    try:
        return await _one_by_one(stand, "boot", once, 3, warmup=0)
    finally:
        await stand.client.kill(sandbox)


async def _memory(stand: Stand, template: str, alive: int) -> Report:
    """What QEMU holds for each of 50 idle clones, shared pages divided; then more of them, which must all answer."""
    report = Report("memory", _line("memory"), {"alive": alive})
    report.samples["cube"] = samples = load.Samples()
    async with population(stand.client, template, samples, **_UNLIKE) as clones:
        await clones.grow(min(50, alive), stand.bars("idle", min(50, alive)))
        await asyncio.sleep(_SETTLE)
        found = [_pss(stand, handle) for handle in clones.handles]
        report.figures["PSS of an idle clone"] = Figure(round(sum(found) / len(found) / 1e6, 1), "MB")
        await clones.grow(alive, stand.bars("alive", alive))
        answered = await clones.ask(stand.bars("answers", len(clones.handles)))
        report.figures["alive at once"] = Figure(len(clones.handles), "sandboxes")
        report.figures["of which answered a command"] = Figure(answered, "sandboxes")
    return report


def _pss(stand: Stand, sandbox: Handle) -> int:
    record = Records(stand.settings.run_dir / "vm").read(sandbox.sandbox_id)
    if record is None:
        raise RoundFailed("the service does not run microVMs")
    for line in Path(f"/proc/{record.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RoundFailed("the kernel tells no Pss")
