"""Compiled Python stays valid in an image whose files all carry one time."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from cube.master.templates.bytecode import retime

EPOCH = 1_704_067_200


@pytest.fixture
def module(tmp_path: Path) -> Path:
    source = tmp_path / "package/module.py"
    source.parent.mkdir()
    source.write_text("VALUE = 1\n")
    py_compile.compile(str(source))
    return source


def compiled(module: Path) -> Path:
    return next((module.parent / "__pycache__").iterdir())


def ran_from_bytecode(module: Path) -> bool:
    command = [sys.executable, "-v", "-B", "-c", "import package.module"]
    done = subprocess.run(command, cwd=module.parents[1], capture_output=True, text=True, check=True)
    return f"matches {module}" in done.stderr


def test_python_accepts_it_with_the_new_time(module: Path) -> None:
    os.utime(module, (EPOCH, EPOCH))
    assert not ran_from_bytecode(module)
    os.utime(module, (EPOCH - 5, EPOCH - 5))
    py_compile.compile(str(module))
    assert retime(module.parents[1], EPOCH) == 1
    os.utime(module, (EPOCH, EPOCH))
    assert ran_from_bytecode(module)


def test_an_edited_source_is_compiled_again(module: Path) -> None:
    retime(module.parents[1], EPOCH)
    module.write_text("VALUE = 2\n")
    assert not ran_from_bytecode(module)


def test_stale_bytecode_is_not_made_valid(module: Path) -> None:
    os.utime(module, (1, 1))
    before = compiled(module).read_bytes()
    assert retime(module.parents[1], EPOCH) == 0
    assert compiled(module).read_bytes() == before


def test_hashed_bytecode_is_left_alone(module: Path) -> None:
    py_compile.compile(str(module), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    assert retime(module.parents[1], EPOCH) == 0


def test_what_a_hostile_image_puts_there_is_passed_over(module: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(compiled(module).read_bytes())
    cache = module.parent / "__pycache__"
    compiled(module).unlink()
    (cache / "module.link.pyc").symlink_to(outside)
    (cache / "module.short.pyc").write_bytes(b"abc")
    (cache / "orphan.x.pyc").write_bytes(outside.read_bytes())
    os.mkfifo(cache / "module.pipe.pyc")
    before = outside.read_bytes()
    assert retime(module.parents[1], EPOCH) == 0
    assert outside.read_bytes() == before
