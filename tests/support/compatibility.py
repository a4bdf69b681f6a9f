"""docs/e2b-compatibility.md: every public method of E2B's clients, whether it works here, and the check that shows it.

``python -m support.compatibility`` writes it; a test fails when it is not what this would write. Nothing is decided in
here: the methods come from the clients themselves, the answers from the checks and from ``compatibility.toml``, which
holds the reasons of those that differ or do not work.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from operator import ge
from pathlib import Path
from typing import Any

import e2b
import e2b_code_interpreter
from e2b.template.main import TemplateBuilder

from support import checks, client_environments
from support.checks import Check

DOCUMENT = Path(__file__).parents[2] / "docs/e2b-compatibility.md"
_NOTES = Path(__file__).parents[1] / "e2e/clients/compatibility.toml"
_TYPES = "node_modules/e2b/dist/index.d.ts", "node_modules/@e2b/code-interpreter/dist/index.d.ts"
_NEWEST_NODE = client_environments.NODE[-1]
#: Classes of the Python client whose methods are listed; those of the asynchronous client have ``Async`` before them.
_CLASSES = (
    *("Sandbox", "Commands", "CommandHandle", "CommandInputHandle", "Pty", "Filesystem", "WatchHandle", "Git"),
    *("Volume", "Secret", "Template", "SandboxPaginator", "SnapshotPaginator", "SecretPaginator", "E2B"),
)
_JAVASCRIPT_CLASSES = (
    *("Sandbox", "Commands", "CommandHandle", "Pty", "Filesystem", "WatchHandle", "Git", "Volume", "Secret"),
    "SandboxPaginator",
)
#: Classes that the declarations split off others.
_PARTS = {"SandboxApi": "Sandbox", "Paginator": "SandboxPaginator"}


@dataclass(frozen=True)
class Row:
    """One method or property."""

    name: str
    answer: str
    colours: tuple[bool, bool]
    shown_by: str
    note: str


def render() -> str:
    """The document as it should be."""
    notes = tomllib.loads(_NOTES.read_text())
    python = [(name, _rows(name, methods, notes)) for name, methods in _surface().items()]
    lines = [*_introduction(_count(row.answer for _, rows in python for row in rows))]
    for name, rows in python:
        lines += [
            "",
            f"### {name}",
            "",
            "| | works | blocking | asynchronous | shown by | |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in rows]
    return "\n".join([*lines, *_javascript(notes), ""])


def _introduction(counts: dict[str, int]) -> Iterator[str]:
    clients = [_in_code(names) for names in (client_environments.PYTHON, client_environments.NODE)]
    yield "# E2B compatibility"
    yield ""
    yield from (
        "E2B's clients work unmodified. `python -m support.compatibility` writes this page out of the tests, and one",
        "of them fails when it is out of date. The checks that it names run in `scripts/test`, inside the environments",
        f"of the clients {clients[0]} (Python) and {clients[1]} (JavaScript),",
        "against a real service, by address and by domain. A check that does not use what it is said to show fails.",
        "",
    )
    yield f"## Python, e2b {version('e2b')} with e2b-code-interpreter"
    yield ""
    yield f"{sum(counts.values())} methods and properties: {_in_words(counts)}."


def _in_code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {answer}" for answer, number in counts.items())


def _count(answers: Iterable[str]) -> dict[str, int]:
    found = list(answers)
    return {answer: found.count(answer) for answer in ("yes", "differs", "no")}


def _line(row: Row) -> str:
    marks = ["✓" if works else "" for works in row.colours]
    return f"| `{row.name}` | {row.answer} | {marks[0]} | {marks[1]} | {row.shown_by} | {row.note} |"


# -- Python ----------------------------------------------------------------------------------------------------------


def _surface() -> dict[str, dict[str, tuple[bool, bool]]]:
    """By class: every public name, and whether the blocking and the asynchronous client have it."""
    return {name: _names(name) for name in _CLASSES} | {"functions": _functions()}


def _names(name: str) -> dict[str, tuple[bool, bool]]:
    blocking, asynchronous = (_public(_class(prefix, name)) for prefix in ("", "Async"))
    return {method: (method in blocking, method in asynchronous) for method in sorted(blocking | asynchronous)}


def _class(prefix: str, name: str) -> Any:
    if name == "E2B":
        return None if prefix else e2b.E2B(api_key="e2b_0")
    if name in ("Commands", "Pty", "Filesystem", "Git"):
        sandbox = getattr(e2b_code_interpreter, f"{prefix}Sandbox")
        return inspect.get_annotations(_part(sandbox, name).fget, eval_str=True)["return"]
    module = e2b_code_interpreter if name == "Sandbox" else e2b
    return getattr(module, f"{prefix}{name}", None)


def _part(sandbox: type, name: str) -> Any:
    return inspect.getattr_static(sandbox, "files" if name == "Filesystem" else name.lower())


def _public(kind: Any) -> set[str]:
    """Public names of a class, or of an object with instances of its own; a template's builder is a template too."""
    if kind is None:
        return set()
    more = dir(TemplateBuilder) if getattr(kind, "__name__", "").endswith("Template") else ()
    return {name for name in (*dir(kind), *more) if not name.startswith("_")}


def _functions() -> dict[str, tuple[bool, bool]]:
    found = {name for name, value in vars(e2b).items() if inspect.isfunction(value) and not name.startswith("_")}
    return dict.fromkeys(sorted(found), (True, True))


def _rows(name: str, methods: dict[str, tuple[bool, bool]], notes: dict[str, dict[str, str]]) -> list[Row]:
    return [_row(f"{name}.{method}", there, notes) for method, there in methods.items()]


def _row(name: str, there: tuple[bool, bool], notes: dict[str, dict[str, str]]) -> Row:
    """Raises ``AssertionError`` for a method that no check shows and of which nothing is said."""
    plain = name.removeprefix("functions.")
    if (local := _note(notes["local"], name)) is not None:
        return Row(plain, "yes", there, "", local)
    shown = [check for check in checks.checks("e2b") if name in check.shows]
    answer, note = _answer(name, notes["differs"], notes["no"])
    assert bool(shown) is (answer != "no"), f"{name}: {len(shown)} checks show it, but the answer is {answer!r}"
    colours = [any(check.only in (None, colour) for check in shown) for colour in checks.COLOURS]
    assert answer == "no" or all(map(ge, colours, there)), f"no check shows {name} in every colour that it has"
    blocking, asynchronous = map(min, there, colours)
    return Row(plain, answer, (blocking, asynchronous), _shown_by(shown), note)


def _answer(name: str, differs: dict[str, str], no: dict[str, str]) -> tuple[str, str]:
    """The answer and what is said about it."""
    for answer, notes in (("no", no), ("differs", differs)):
        if (note := _note(notes, name)) is not None:
            return answer, note
    return "yes", ""


def _note(notes: dict[str, str], name: str) -> str | None:
    return notes.get(name, notes.get(name.partition(".")[0]))


def _shown_by(shown: list[Check]) -> str:
    return ", ".join(f"`{check.node}`" for check in shown[:2])


# -- JavaScript ------------------------------------------------------------------------------------------------------


def _javascript(notes: dict[str, dict[str, str]]) -> Iterator[str]:
    directory = client_environments.node(_NEWEST_NODE)
    surface = _declared([(directory / name).read_text() for name in _TYPES])
    rows = [_javascript_row(name, notes) for name in sorted(surface)]
    yield ""
    yield f"## JavaScript, {_NEWEST_NODE.replace('npm-', 'e2b ')} with @e2b/code-interpreter"
    yield ""
    yield f"{len(rows)} methods and properties: {_in_words(_count(row.answer for row in rows))}."
    yield ""
    yield "| | works | shown by | |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| `{row.name}` | {row.answer} | {row.shown_by} | {row.note} |"


def _javascript_row(name: str, notes: dict[str, dict[str, str]]) -> Row:
    if (local := _note(notes["javascript_local"], name)) is not None:
        return Row(name, "yes", (True, True), "", local)
    shown = [check for check in checks.javascript_checks() if name in check.shows]
    answer, note = _answer(name, notes["javascript_differs"], notes["javascript_no"])
    assert bool(shown) is (answer != "no"), f"{name}: {len(shown)} checks show it, but the answer is {answer!r}"
    return Row(name, answer, (True, True), _shown_by(shown), note)


def _declared(declarations: list[str]) -> set[str]:
    """Public members of the listed classes."""
    found: set[str] = set()
    for text in declarations:
        for match in re.finditer(
            r"^declare (?:abstract )?class (\w+)[^{]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
        ):
            name = _PARTS.get(match[1], match[1])
            if name in _JAVASCRIPT_CLASSES:
                found |= {f"{name}.{member}" for member in _members(match[2])}
    return found


_MEMBER = re.compile(r"(?P<modifiers>(?:(?:static|readonly|get|protected|private|abstract) )*)(?P<name>[a-z]\w*)[?(:<]")


def _members(body: str) -> Iterator[str]:
    lines = [line for line in re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).splitlines() if line.strip()]
    outermost = min(len(line) - len(line.lstrip()) for line in lines)
    for line in lines:
        match = _MEMBER.match(line, outermost)
        if match and not {"protected", "private"} & set(match["modifiers"].split()) and match["name"] != "constructor":
            yield match["name"]


if __name__ == "__main__":
    DOCUMENT.write_text(render())
