"""Copies notice that they are copies, once, and draw numbers of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest

from cube.envd.interpreter.kernels.generation import Generation, reseed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "generation").write_text(f"{1:020d}\n")
    return tmp_path / "generation"


def move_on(file: Path, generation: int) -> None:
    """As the guest does it: in place."""
    with file.open("r+") as opened:
        opened.write(f"{generation:020d}\n")


def test_a_change_is_noticed_once(file: Path) -> None:
    generation = Generation(str(file))
    assert not generation.changed()
    move_on(file, 2)
    assert generation.changed()
    assert not generation.changed()


def test_each_process_notices_for_itself(file: Path) -> None:
    generation = Generation(str(file))
    move_on(file, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if generation.changed() and not generation.changed() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert generation.changed()


@pytest.mark.parametrize("name", ["nowhere", "empty", "directory"])
def test_without_a_file_nothing_ever_changes(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    assert not Generation(str(tmp_path / name)).changed()


def test_two_copies_draw_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random.getstate()
    drawn = []
    for _ in range(2):
        random.setstate(state)
        reseed()
        drawn.append((random.random(), next(tempfile._get_candidate_names())))
    random.setstate(state)
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_draws_from_the_operating_system() -> None:
    """Two that were seeded alike, as copies are; nothing that they draw afterwards is."""
    cells = (
        "Math.random()",
        "crypto.randomUUID()",
        "require('crypto').randomBytes(8).toString('hex')",
        "crypto.getRandomValues(new Uint32Array(2)).join()",
        "require('crypto').randomFillSync(Buffer.alloc(8), 2, 4).toString('hex')",
    )
    first, second = (_node(["--random-seed=7"], cells) for _ in range(2))
    assert len(first) == len(cells)
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert 0 <= float(first[0]) < 1
    assert first[1][15] == "4"
    assert first[4].strip("'")[:4] == "0000"


def _node(options: Sequence[str], cells: Sequence[str]) -> list[str]:
    """What the cells show after a reseed."""
    program = (resources.files("cube.envd.interpreter.kernels") / "node_program.js").read_text()
    requests = [{"op": "reseed"}, *({"op": "execute", "id": 1, "code": code, "env": {}} for code in cells)]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    answers, write_end = os.pipe()
    argv = ["node", "--no-warnings", *options, "-e", f"(function () {{{program}\n}})()", "0", str(write_end)]
    subprocess.run(argv, input=lines.encode(), pass_fds=(write_end,), timeout=60, check=True)
    os.close(write_end)
    with os.fdopen(answers, "rb") as opened:
        told = [json.loads(line) for line in opened]
    assert not [one for one in told if one["type"] == "error"], told
    return [one["data"]["text/plain"] for one in told if one["type"] == "result"]
