"""The checks of the client suite: which there are, which run where, and what they gave."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support import client_environments

SUITE = Path(__file__).parents[1] / "e2e/clients/suite"
COLOURS = ("blocking", "asynchronous")


@dataclass(frozen=True)
class Check:
    """One check, as its source says."""

    #: As pytest in the suite's directory names it.
    node: str
    #: Methods of the client that it proves.
    shows: tuple[str, ...]
    #: First version of the client that has all of it.
    since: str
    #: The one colour that it is for.
    only: str | None

    def runs_on(self, version: str, colour: str) -> bool:
        """Whether it is for a version (``2.45``) and colour of the client."""
        return _number(self.since) <= _number(version) and self.only in (None, colour)


@dataclass(frozen=True)
class Outcome:
    """How a check ended."""

    passed: bool
    text: str


@cache
def checks() -> tuple[Check, ...]:
    """All checks for E2B's Python client, in the order of their files; nothing is imported."""
    return tuple(check for path in sorted(SUITE.glob("check_*.py")) for check in _checks_of(path))


def run(environment: str, colour: str, nodes: Iterable[str], more: Mapping[str, str]) -> dict[str, Outcome]:
    """Run checks in an environment, one after the other, with ``more`` environment variables; by node."""
    with tempfile.NamedTemporaryFile("r", prefix="cube-checks-") as report:
        variables = {**os.environ, **more, "PYTHONPATH": str(SUITE), "CHECKS_REPORT": report.name}
        command = [
            client_environments.python(environment),
            "-m",
            "pytest",
            f"--colour={colour}",
            "--durations=8",
            *nodes,
        ]
        done = subprocess.run(command, cwd=SUITE, env=variables, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in report]
    outcomes = {line["check"]: Outcome(line["passed"], line["text"]) for line in lines}
    missing = Outcome(False, f"it did not run:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return {node: outcomes.get(node, missing) for node in nodes}


def _checks_of(path: Path) -> list[Check]:
    tree = ast.parse(path.read_text())
    return [
        _check(path, node)
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("check_")
    ]


def _check(path: Path, function: ast.AsyncFunctionDef) -> Check:
    (marks,) = function.decorator_list
    assert isinstance(marks, ast.Call), f"{path.name}: {function.name} does not say what it shows"
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in marks.keywords}
    shows = tuple(" ".join(ast.literal_eval(argument) for argument in marks.args).split())
    return Check(f"{path.name}::{function.name}", shows, named.get("since", "2.31"), named.get("only"))


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
