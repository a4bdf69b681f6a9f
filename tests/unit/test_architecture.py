"""Imports point one way: cli, api → master → cubelet → netagent, egress → proxy, envd → model."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "cube"
LAYERS = {
    "model": 0,
    "settings": 0,
    "helper": 0,
    "envd": 1,
    "proxy": 1,
    "egress": 2,
    "netagent": 2,
    "cubelet": 3,
    "master": 4,
    "api": 5,
    "bench": 5,
    "cli": 6,
}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "cube" and len(parts) > 1 and parts[1] in LAYERS else None


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_every_room_has_a_layer() -> None:
    rooms = {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= set(LAYERS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own not in LAYERS:
        return
    for module in imports(path):
        other = room(module)
        if other is not None and other != own:
            assert LAYERS[other] < LAYERS[own], f"{own} imports {module}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_fit_in_a_head(path: Path) -> None:
    if "proto" in path.parts:
        return
    assert len(path.read_text().splitlines()) <= 500, "split it by subject"
