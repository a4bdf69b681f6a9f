"""The .proto files say what E2B's clients say, and the committed code is what they generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from e2b.envd.filesystem import filesystem_pb as their_filesystem
from e2b.envd.process import process_pb as their_process

from cube.envd.proto.filesystem import filesystem_pb as our_filesystem
from cube.envd.proto.process import process_pb as our_process

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "cube"


def test_generated_code_is_current(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "gen-proto"
    subprocess.run([script, tmp_path], check=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"})
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py")}
    assert len(made) >= 6
    assert made == {name: (SOURCE / name).read_text() for name in made}


def messages(container: Any) -> dict[str, set[tuple[str, int, str]]]:
    found: dict[str, set[tuple[str, int, str]]] = {}
    for message in container:
        found[message.type_name] = {(field.name, field.number, str(field.proto.type)) for field in message.fields}
        found |= messages(message.nested_messages)
    return found


@pytest.mark.parametrize(("ours", "theirs"), [(our_process, their_process), (our_filesystem, their_filesystem)])
def test_the_wire_is_that_of_the_clients(ours: Any, theirs: Any) -> None:
    assert messages(ours.desc().messages) == messages(theirs.desc().messages)
    for mine, other in zip(ours.desc().services, theirs.desc().services, strict=True):
        assert mine.type_name == other.type_name
        assert {
            (method.name, method.method_kind, method.input.type_name, method.output.type_name)
            for method in mine.methods
        } == {
            (method.name, method.method_kind, method.input.type_name, method.output.type_name)
            for method in other.methods
        }
    for mine, other in zip(ours.desc().enums, theirs.desc().enums, strict=True):
        assert {(value.name, value.number) for value in mine.values} == {
            (value.name, value.number) for value in other.values
        }
