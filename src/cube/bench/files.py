"""How fast files get in and out through the public port: a big one, and small ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from cube.bench import load, transfer
from cube.bench.client import Client, Handle
from cube.bench.load import Round, RoundFailed, Samples
from cube.bench.report import Figure, Report
from cube.bench.stand import Stand

_PATH = "/home/user/bench"
_SMALL = b"x" * 1024


async def measure(stand: Stand, megabytes: int, repeats: int, small: int, template: str, command: str) -> Report:
    """A file of ``megabytes`` MiB ``repeats`` times each way, then ``small`` files of 1 KiB each way."""
    parameters = {"megabytes": megabytes, "repeats": repeats, "small": small, "template": template}
    report = Report("files", command, parameters)
    sandbox = await stand.client.create(template, seconds=600)
    try:
        big = await _big(stand, sandbox, megabytes, repeats)
        report.samples["big file"] = big
        report.samples["small files"] = await load.run(
            _small(stand.client, sandbox), count=small, concurrency=1, warmup=2, progress=stand.bars("small", small + 2)
        )
    finally:
        await stand.client.kill(sandbox)
    for mark, seconds in big.durations.items():
        report.figures[mark] = _speed(megabytes, sorted(seconds)[len(seconds) // 2])
    return report


async def _big(stand: Stand, sandbox: Handle, megabytes: int, repeats: int) -> Samples:
    """Marks: ``upload`` (raw body), ``upload, form`` (multipart) and ``download``."""
    address = (stand.settings.public_address, stand.settings.port)
    block = transfer.random_block()
    ways: dict[str, Callable[..., float]] = {
        "upload": transfer.upload,
        "upload, form": transfer.upload_form,
        "download": transfer.download,
    }

    async def once() -> dict[str, float]:
        marks = {}
        for mark, way in ways.items():
            move = partial(way, address, f"/files?path={_PATH}", sandbox.headers(), block, megabytes)
            try:
                marks[mark] = await asyncio.to_thread(move)
            except OSError as error:
                raise RoundFailed(f"{mark}: {error}") from error
        return marks

    return await load.run(once, count=repeats, concurrency=1, warmup=1, progress=stand.bars("big", repeats + 1))


def _small(client: Client, sandbox: Handle) -> Round:
    """Marks: ``write``, ``read``."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        await client.write(sandbox, f"{_PATH}.small", _SMALL)
        written = time.perf_counter()
        content = await client.read(sandbox, f"{_PATH}.small")
        answered = time.perf_counter()
        if content != _SMALL:
            raise RoundFailed("the file that was read is not the one that was written")
        return {"write": written - begun, "read": answered - written}

    return once


def _speed(megabytes: int, seconds: float) -> Figure:
    return Figure(round(megabytes * 2**20 / seconds / 1e6, 1), "MB/s")
