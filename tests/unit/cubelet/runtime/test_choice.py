"""Which runtime a node has."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.runtime import choice
from cube.cubelet.runtime.microvm import accelerator
from cube.cubelet.runtime.microvm.accelerator import Verdict
from cube.cubelet.storage.images import ImageStore
from cube.netagent.agent import NetworkAgent
from cube.settings import Settings


@pytest.mark.parametrize(
    ("asked", "boots", "runtime", "isolation"),
    [
        ("auto", True, "microvm", "vm"),
        ("auto", False, "container", "container"),
        ("auto", None, "container", "container"),
        ("container", True, "container", "container"),
        ("microvm", True, "microvm", "vm"),
        ("microvm", False, "microvm", "emulated-vm"),
        ("microvm", None, "microvm", "emulated-vm"),
    ],
)
async def test_it_follows_from_the_setting_and_from_what_was_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, boots: bool | None, runtime: str, isolation: str
) -> None:
    monkeypatch.setattr(accelerator, "remembered", lambda settings: Verdict(boots, "said the test"))
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path / "run", runtime=asked)  # type: ignore[arg-type]
    network = NetworkAgent(settings)
    chosen = await choice.choose(settings, ImageStore(settings), network)
    assert (chosen.name, chosen.capabilities.isolation) == (runtime, isolation)
    await network.close()


async def test_nothing_is_booted_for_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(settings: Settings) -> Verdict:
        raise AssertionError

    monkeypatch.setattr(accelerator, "find_out", never)
    await choice.find_out(Settings(state_dir=tmp_path, run_dir=tmp_path / "run", runtime="container"))
