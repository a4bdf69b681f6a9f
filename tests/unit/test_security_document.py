"""docs/security-tests.md and the attacks of docs/egress.md and docs/network.md name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/security-tests.md").read_text()
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT)
FOLDERS = ("security", "integration/master/templates", "integration/cubelet/runtime/microvm")
ROWS = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and not line.startswith("| attack |")]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file: str, name: str) -> None:
    texts = [path.read_text() for folder in FOLDERS if (path := ROOT / "tests" / folder / file).exists()]
    assert any(re.search(rf"^(async )?def {name}\(", text, re.MULTILINE) for text in texts)


def test_every_row_says_what_happens_and_names_a_test() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        attack, what, tests = (cell.strip() for cell in row.strip("|").split(" | "))
        assert attack
        assert what
        assert "::test_" in tests


def attacks(document: str) -> list[str]:
    """The rows of a page's table of attacks."""
    text = (ROOT / "docs" / document).read_text().partition("## Attacks, and what happens")[2]
    return [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]


PAGES = {"egress.md": 30, "network.md": 18}
PLACES = ("security/egress", "integration/egress", "integration/netagent", "e2e")
TESTS = [found for page in PAGES for row in attacks(page) for found in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)]


@pytest.mark.parametrize(("file", "name"), sorted(set(TESTS)))
def test_the_test_of_an_attack_exists(file: str, name: str) -> None:
    texts = [path.read_text() for place in PLACES if (path := ROOT / "tests" / place / file).exists()]
    assert any(re.search(rf"^(async )?def {name}\(", text, re.MULTILINE) for text in texts)


@pytest.mark.parametrize("page", PAGES)
def test_every_attack_says_what_happens_and_names_a_test(page: str) -> None:
    rows = attacks(page)
    assert len(rows) > PAGES[page]
    for row in rows:
        attack, what, tests = (cell.strip() for cell in row.strip("|").split(" | "))
        assert attack
        assert what
        assert "::test_" in tests
