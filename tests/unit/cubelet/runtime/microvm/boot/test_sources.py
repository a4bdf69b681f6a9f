"""Fetching a kernel's package: what the programs for it do that do not work."""

from __future__ import annotations

import asyncio

import pytest

from cube.cubelet.runtime.microvm.boot import sources
from cube.model.errors import HostError


async def test_an_archive_that_does_not_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PATIENCE_S", 0.1)
    async with asyncio.timeout(30):
        with pytest.raises(HostError, match=r"took longer than 0\.1 s; or set CUBE_VM_KERNEL"):
            await sources._output("sleep", "3600")


async def test_a_program_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(HostError, match="sh -c failed: no such package"):
        await sources._output("sh", "-c", "echo no such package >&2; exit 1")


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(HostError, match="no-such-program is needed"):
        await sources._output("no-such-program")


async def test_what_is_cancelled_leaves_no_process() -> None:
    work = asyncio.create_task(sources._output("sleep", "3611"))
    await asyncio.sleep(0.3)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    listing = await sources._output("ps", "-eo", "args")
    assert "sleep 3611" not in listing.splitlines()
