from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cube.bench import rivals
from cube.bench.load import RoundFailed
from cube.bench.rivals.ground import CannotRun, call


async def test_a_rival_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in rivals.NAMES:
        with pytest.raises(CannotRun, match="apt-get install"):
            await rivals.contestant(name, tmp_path, tmp_path)


async def test_a_rival_that_refuses_this_machine_gives_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "crun"
    program.write_text("#!/bin/sh\necho first >&2\necho 'cgroups in hybrid mode not supported' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CannotRun, match="crun ended with 1: cgroups in hybrid mode not supported"):
        await rivals.contestant("crun", tmp_path, tmp_path / "workspace")


def test_a_program_gives_its_output_when_asked() -> None:
    assert call("/bin/echo", "hi", output=True) == b"hi\n"
    assert call("/bin/echo", "hi") == b""


async def test_a_program_that_leaves_others_running_does_not_hold_the_caller() -> None:
    """A container engine's monitor keeps its streams open for as long as the container lives."""
    async with asyncio.timeout(20):
        await asyncio.to_thread(call, "/bin/sh", "-c", "sleep 30 & echo $! >&2")


def test_a_program_that_fails_silently_is_named() -> None:
    with pytest.raises(RoundFailed, match="false ended with 1: it said nothing"):
        call("/bin/false")
