"""docs/security-tests.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/security-tests.md").read_text())


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests/security" / file).read_text(), re.MULTILINE)


def test_every_row_names_one() -> None:
    rows = [line for line in (ROOT / "docs/security-tests.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert rows
    assert all("::test_" in row for row in rows)
