"""What is sent into sandboxes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from cube.envd.interpreter.payload import PACKAGE, command, payload

SOURCES: dict[str, str] = json.loads(payload("python_host"))["sources"]


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.startswith(PACKAGE)))
def test_modules_suit_old_interpreters_and_import_nothing_of_ours(name: str) -> None:
    tree = ast.parse(SOURCES[name], feature_version=(3, 9))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert not any(module.startswith("cube") for module in imported)


def test_loader_reads_its_payload_exactly() -> None:
    """What follows the payload at once still reaches the program. Without IPython, that is a clear complaint."""
    program = payload("python_host")
    argv = [sys.executable, "-S", *command(program)[1:]]
    result = subprocess.run(argv, input=program + b'{"op": "kill"}\n', capture_output=True, timeout=20)
    answer = json.loads(result.stdout)
    assert answer["type"] == "fatal"
    assert "lacks IPython" in answer["message"]


def test_loader_ends_quietly_when_nobody_sends_anything() -> None:
    result = subprocess.run(
        [sys.executable, *command(payload("bash_host"))[1:]], input=b"", capture_output=True, timeout=20
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_command_line_is_short() -> None:
    assert sum(map(len, command(payload("python_host")))) < 2000
