"""Requests as fast as they are answered: ``h2load``, which is no bottleneck beside a proxy on the same cores."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cube.bench.egress.ground import HOST, Ground
from cube.bench.load import RoundFailed

_RATE = re.compile(r"finished in ([0-9.]+)(us|ms|s), ")
_CODES = re.compile(r"status codes: (\d+) 2xx")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What a run produced."""

    seconds: float
    #: Requests that were answered with 2xx.
    answered: int
    #: Of each of those, in seconds; empty unless they were asked for.
    durations: list[float]

    @property
    def per_second(self) -> float:
        """Answers in a second."""
        return self.answered / self.seconds


def require() -> None:
    """Raises ``FileNotFoundError`` when the program is not there."""
    if shutil.which("h2load") is None:
        raise FileNotFoundError("h2load is not installed: `apt-get install nghttp2-client`")


async def load(
    ground: Ground,
    place: str,
    url: str,
    *,
    count: int,
    connections: int,
    log: Path | None = None,
    host: str = HOST,
) -> Load:
    """``count`` requests over so many connections that are kept, from a namespace; ``log`` is where each is noted.

    Raises ``RoundFailed`` when one of them is not answered with 2xx.
    """
    noted = [] if log is None else [f"--log-file={log}"]
    options = ["--h1", f"-n{count}", f"-c{connections}", f"--connect-to={host}:443", *noted]
    command = ground.inside(place, "h2load", *options, url)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output = (await process.communicate())[0].decode()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return _read(output, count, log)


def _read(output: str, count: int, log: Path | None) -> Load:
    rate, codes = _RATE.search(output), _CODES.search(output)
    if rate is None or codes is None or int(codes.group(1)) != count:
        raise RoundFailed(f"not all of {count} requests were answered: {output[-400:]}")
    return Load(float(rate.group(1)) * _UNITS[rate.group(2)], int(codes.group(1)), _durations(log))


def _durations(log: Path | None) -> list[float]:
    if log is None:
        return []
    return [int(line.split("\t")[2]) / 1e6 for line in log.read_text().splitlines()]
