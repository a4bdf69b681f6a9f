"""E2B's Python client, every method of it, in several versions and both colours, against one real service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import checks
from support.checks import Outcome
from support.service import Service

pytestmark = pytest.mark.root

VERSIONS = ("2.31", "2.45", "2.63")


def cases() -> list[tuple[str, str, str]]:
    """(version, colour, check) for every check that is for them."""
    return [
        (version, colour, check.node)
        for version in VERSIONS
        for colour in checks.COLOURS
        for check in checks.checks()
        if check.runs_on(version, colour)
    ]


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, service: Service) -> Callable[[str, str, str], Outcome]:
    """How a check ended. All that are asked for in this run are run when the first of their version and colour is."""
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    known: dict[tuple[str, str], dict[str, Outcome]] = {}

    def find(version: str, colour: str, node: str) -> Outcome:
        if (version, colour) not in known:
            wanted = [
                params["node"]
                for params in chosen
                if (params.get("version"), params.get("colour")) == (version, colour)
            ]
            known[version, colour] = checks.run(f"e2b-{version}", colour, wanted, service.environment)
        return known[version, colour][node]

    return find


@pytest.mark.parametrize(("version", "colour", "node"), cases())
@pytest.mark.timeout(900)
def test_check(version: str, colour: str, node: str, outcome: Callable[[str, str, str], Outcome]) -> None:
    found = outcome(version, colour, node)
    assert found.passed, found.text
