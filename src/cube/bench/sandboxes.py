"""The benchmarks of cube itself: ``create`` and ``exec``."""

from __future__ import annotations

import time

from cube.bench.client import Client, Handle
from cube.bench.load import Round, RoundFailed

#: What is run as the first command, here and by every rival: the shell that the SDK's ``commands.run`` starts.
COMMAND = "echo hi"
EXPECTED = b"hi\n"


def create(client: Client, template: str) -> Round:
    """Create a sandbox and end it. Marks: ``create``, ``kill``."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        sandbox = await client.create(template)
        created = time.perf_counter()
        await client.kill(sandbox)
        return {"create": created - begun, "kill": time.perf_counter() - created}

    return once


def create_alone(client: Client, template: str, made: list[Handle]) -> Round:
    """Create a sandbox, which is added to ``made`` and goes on. Mark: ``create``."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        made.append(await client.create(template))
        return {"create": time.perf_counter() - begun}

    return once


def create_and_exec(client: Client, template: str) -> Round:
    """Create a sandbox, wait for the answer of its first command, end it. Marks: ``create``, ``exec``,
    ``create+exec``, ``kill``."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        sandbox = await client.create(template)
        created = time.perf_counter()
        try:
            output = await client.command(sandbox, COMMAND)
            answered = time.perf_counter()
        finally:
            killing = time.perf_counter()
            await client.kill(sandbox)
        if output != EXPECTED:
            raise RoundFailed(f"the command printed {output!r}")
        return {
            "create": created - begun,
            "exec": answered - created,
            "create+exec": answered - begun,
            "kill": time.perf_counter() - killing,
        }

    return once
