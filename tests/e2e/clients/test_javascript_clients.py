"""Unmodified JavaScript clients against the same service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import checks
from support.checks import Outcome, Run

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

VERSIONS = ("2.31", "2.51")


def cases() -> list[tuple[Run, str]]:
    """Every check that is for a version."""
    return [
        (Run("javascript", f"npm-{version}", way), check.node)
        for version in VERSIONS
        for way in ("address", "domain")
        for check in checks.javascript_checks()
        if check.runs_on(version, way=way)
    ]


@pytest.mark.parametrize(("run", "node"), cases(), ids=str)
def test_e2b(run: Run, node: str, outcome: Callable[[Run, str], Outcome]) -> None:
    found = outcome(run, node)
    assert found.passed, found.text
