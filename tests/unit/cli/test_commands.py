"""The command line as a whole: every command is there, explains itself, and loads only what it needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from cube.cli.main import app

_ROOT: Any = typer.main.get_command(app)


def commands(group: Any = _ROOT, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of all commands."""
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(None):
        command, words = group.get_command(None, name), (*before, name)
        found += commands(command, words) if hasattr(command, "list_commands") else [words]
    return found


def command_of(words: tuple[str, ...]) -> Any:
    command = _ROOT
    for word in words:
        command = command.get_command(None, word)
    return command


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_says_what_it_does_and_shows_an_example(words: tuple[str, ...]) -> None:
    command = command_of(words)
    assert command.name == words[-1]
    assert f"cube {' '.join(words)}" in command.help


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_can_answer_in_json(words: tuple[str, ...]) -> None:
    options = {name for parameter in command_of(words).params for name in parameter.opts}
    assert "--json" in options


def test_how_to_complete_words_is_said_once() -> None:
    options = [name for parameter in command_of(("template",)).params for name in parameter.opts]
    assert "--install-completion" not in options


def test_an_unknown_command_is_none() -> None:
    assert _ROOT.get_command(None, "nothing") is None


def test_a_command_does_not_load_the_others() -> None:
    """What each takes to load is what its user waits for."""
    code = "import sys, cube.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "httpx", "cube.bench"} & set(loaded)
