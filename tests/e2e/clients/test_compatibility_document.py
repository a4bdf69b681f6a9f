"""docs/e2b-compatibility.md says what the checks show."""

from __future__ import annotations

from support import compatibility


def test_the_document_is_up_to_date() -> None:
    written = compatibility.DOCUMENT.read_text()
    assert written == compatibility.render(), "run: PYTHONPATH=tests .venv/bin/python -m support.compatibility"
