"""Unmodified Python clients, several versions of them, against one real service.

What they do is in ``suites``; here every check of every client, version and colour is a test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import checks
from support.checks import Outcome, Run

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

VERSIONS = ("2.31", "2.45", "2.63")
RUNS = [
    *((version, colour, "address") for version in VERSIONS for colour in checks.COLOURS),
    *(("2.63", colour, "domain") for colour in checks.COLOURS),
    ("2.31", "blocking", "domain"),
]


def e2b() -> list[tuple[Run, str]]:
    """Every check that is for a version, a colour and a way."""
    return [
        (Run("e2b", f"e2b-{version}", way, (f"--colour={colour}",)), check.node)
        for version, colour, way in RUNS
        for check in checks.checks("e2b")
        if check.runs_on(version, colour=colour, way=way)
    ]


@pytest.mark.parametrize(("run", "node"), e2b(), ids=str)
def test_e2b(run: Run, node: str, outcome: Callable[[Run, str], Outcome]) -> None:
    found = outcome(run, node)
    assert found.passed, found.text


@pytest.mark.parametrize("run", [Run("cubesandbox", "cubesandbox")], ids=str)
@pytest.mark.parametrize("node", [check.node for check in checks.checks("cubesandbox")])
def test_cubesandbox(run: Run, node: str, outcome: Callable[[Run, str], Outcome]) -> None:
    found = outcome(run, node)
    assert found.passed, found.text
