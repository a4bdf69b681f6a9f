"""The tree of tests: pytest takes files of one name in two directories for the same module, and stops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_two_files_of_tests_are_one_module() -> None:
    modules = Counter(_module(path) for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in modules.items() if count > 1] == []


def _module(path: Path) -> str:
    """Its name as pytest imports it: below the outermost directory that is a package."""
    names = [path.stem]
    for directory in path.parents:
        if not (directory / "__init__.py").exists():
            break
        names.append(directory.name)
    return ".".join(reversed(names))
