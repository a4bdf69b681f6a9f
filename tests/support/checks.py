"""The checks of the client suites: which there are, which run where, and what they gave."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support import client_environments

SUITES = Path(__file__).parents[1] / "e2e/clients/suites"
COLOURS = ("blocking", "asynchronous")


@dataclass(frozen=True)
class Check:
    """One check, as its source says."""

    #: As pytest in the suite's directory names it.
    node: str
    #: Methods of the client that it proves.
    shows: tuple[str, ...] = ()
    #: First version of the client that has all of it.
    since: str = "0"
    #: The one colour that it is for.
    only: str | None = None
    #: The one way of finding the service that it is for.
    way: str | None = None

    def runs_on(self, version: str, *, colour: str = "", way: str = "address") -> bool:
        """Whether it is for a version (``2.45``) and colour of the client, and a way of finding the service."""
        return number(self.since) <= number(version) and self.only in (None, colour) and self.way in (None, way)


@dataclass(frozen=True)
class Run:
    """One run of a suite in one environment."""

    suite: str
    environment: str
    #: How the client finds the service: by one ``address``, or by a ``domain``.
    way: str = "address"
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [self.environment, *(argument.partition("=")[2] for argument in self.arguments)]
        return "-".join(words if self.way == "address" else [*words, self.way])


@dataclass(frozen=True)
class Outcome:
    """How a check ended."""

    passed: bool
    text: str


@cache
def checks(suite: str) -> tuple[Check, ...]:
    """All checks of a suite for Python clients, in the order of their files; nothing is imported."""
    return tuple(check for path in sorted((SUITES / suite).glob("check_*.py")) for check in _checks_of(path))


@cache
def javascript_checks() -> tuple[Check, ...]:
    """All checks for clients in JavaScript."""
    paths = sorted((SUITES / "javascript").glob("check_*.mjs"))
    return tuple(check for path in paths for check in _javascript_checks_of(path))


def carry_out(run: Run, nodes: Sequence[str], more: Mapping[str, str]) -> dict[str, Outcome]:
    """Run checks one after the other, with ``more`` environment variables; what became of them by node."""
    directory = SUITES / run.suite
    command, own = _command(run)
    with tempfile.NamedTemporaryFile("r", prefix="cube-checks-") as report:
        variables = {**os.environ, **more, **own, "CHECKS_REPORT": report.name}
        done = subprocess.run(
            [*command, *run.arguments, *nodes],
            cwd=directory,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in report]
    outcomes = {line["check"]: Outcome(line["passed"], line["text"]) for line in lines}
    missing = Outcome(False, f"it did not run:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return {node: outcomes.get(node, missing) for node in nodes}


def _command(run: Run) -> tuple[list[str], dict[str, str]]:
    """What runs checks in an environment, and the variables that it needs."""
    if run.environment in client_environments.NODE:
        return ["node", "run.mjs"], {"CLIENT_DIRECTORY": str(client_environments.node(run.environment))}
    paths = os.pathsep.join((str(SUITES / run.suite), str(SUITES)))
    return [str(client_environments.python(run.environment)), "-m", "pytest"], {"PYTHONPATH": paths}


def number(version: str) -> tuple[int, ...]:
    """A version as something that can be compared."""
    return tuple(map(int, version.split(".")))


def _checks_of(path: Path) -> list[Check]:
    body = ast.parse(path.read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [_check(path, function) for function in functions if function.name.startswith("check_")]


def _check(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Check:
    node = f"{path.name}::{function.name}"
    if not function.decorator_list:
        return Check(node)
    (marks,) = function.decorator_list
    assert isinstance(marks, ast.Call)
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in marks.keywords}
    shows = tuple(" ".join(ast.literal_eval(argument) for argument in marks.args).split())
    return Check(node, shows, **named)


_JAVASCRIPT = re.compile(
    r"^check\(\s*'(?P<name>[^']+)',\s*'(?P<shows>[^']*)',"
    r"\s*\{(?: since: '(?P<since>[0-9.]+)')?(?: way: '(?P<way>[a-z]+)')? ?\},",
    re.MULTILINE,
)


def _javascript_checks_of(path: Path) -> list[Check]:
    source = path.read_text()
    found = [
        Check(f"{path.name}::{match['name']}", tuple(match["shows"].split()), match["since"] or "0", way=match["way"])
        for match in _JAVASCRIPT.finditer(source)
    ]
    assert len(found) == len(re.findall(r"^check\(", source, re.MULTILINE)), (
        f"{path.name}: not every check is understood"
    )
    return found
