"""mitmproxy in the place of the outbound proxy, with the same rule and the same injection.

It is put into an environment of its own, from the package index, the first time it is asked for.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cube.bench.egress.ground import MITM_PORT, Ground
from cube.bench.load import RoundFailed
from cube.settings import Settings

_INSTALL_SECONDS, _START_SECONDS = 600, 60
#: The benchmark's rule, as an addon.
_RULE = """
from mitmproxy import http

def request(flow):
    asked = flow.request
    name = asked.pretty_host
    if asked.scheme == "https" and name == {host!r} and asked.method == "GET" and asked.path.startswith("/v1/"):
        asked.headers["Authorization"] = "Bearer " + {secret!r}
    else:
        flow.response = http.Response.make(403, b"no rule fits")
"""


def home(settings: Settings) -> Path:
    """Where it is kept, and installed if need be."""
    return settings.state_dir / "bench" / "mitmproxy"


def installed(directory: Path) -> Path:
    """The program, put into an environment in ``directory`` if need be. Blocks for minutes then.

    Raises ``RoundFailed`` when it cannot be had.
    """
    program = directory / "bin" / "mitmdump"
    if program.exists():
        return program
    try:
        for command in (("-m", "venv", str(directory)), ("-m", "pip", "install", "--quiet", "mitmproxy")):
            python = sys.executable if command[1] == "venv" else str(directory / "bin" / "python")
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            done = subprocess.run(
                [python, *command], env=environment, capture_output=True, text=True, timeout=_INSTALL_SECONDS
            )
            if done.returncode != 0:
                raise RoundFailed(f"mitmproxy cannot be installed: {done.stderr.strip()[-200:]}")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RoundFailed(f"mitmproxy cannot be installed: {error}") from error
    return program


@asynccontextmanager
async def running(ground: Ground, program: Path, workspace: Path, *, host: str, secret: str) -> AsyncIterator[None]:
    """mitmproxy on the node during the block. Raises ``RoundFailed`` when it does not start."""
    rule = workspace / "rule.py"
    rule.write_text(_RULE.format(host=host, secret=secret), encoding="utf-8")
    trust = workspace / "world-ca" / "cube-root-ca.crt"
    options = ["--mode", "transparent", "--listen-port", str(MITM_PORT), "--quiet", "--scripts", str(rule)]
    settings = [f"confdir={workspace / 'mitmproxy'}", f"ssl_verify_upstream_trusted_ca={trust}", "flow_detail=0"]
    arguments = [*options, *(word for one in settings for word in ("--set", one))]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = _spawn(ground.inside("node", str(program), *arguments), environment)
    try:
        await _until_it_listens(ground, process)
        yield
    finally:
        process.kill()
        process.wait()


def _spawn(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment)


async def _until_it_listens(ground: Ground, process: subprocess.Popen[bytes]) -> None:
    command = ground.inside("node", "ss", "-Hltn", f"sport = :{MITM_PORT}")
    async with asyncio.timeout(_START_SECONDS):
        while process.poll() is None:
            if (await asyncio.to_thread(subprocess.run, command, capture_output=True)).stdout:
                return
            await asyncio.sleep(0.1)
    raise RoundFailed("mitmproxy ended while it started")
