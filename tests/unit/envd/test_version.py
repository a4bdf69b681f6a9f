"""The version that envd reports switches features on in the clients: each must be there, and be tested."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from e2b.envd import versions
from packaging.version import Version

from cube.envd.version import ENVD_VERSION

CONFORMANCE = Path(__file__).parents[2] / "integration" / "envd" / "conformance"

#: From each version on, clients use the feature; the test shows that it works.
GATES = {
    "0.1.0": ("commands", "test_output_and_exit_code"),
    "0.1.4": ("watch", "test_recursive"),
    "0.1.5": ("../test_rest", "test_metrics"),
    "0.2.4": ("../test_rest", "test_metrics"),
    "0.3.0": ("commands", "test_stdin_is_off_by_default"),
    "0.4.0": ("commands", "test_the_default_user_needs_no_name"),
    "0.5.2": ("commands", "test_stdin"),
    "0.5.7": ("files", "test_write_and_read"),
    "0.6.2": ("files", "test_metadata"),
    "0.6.3": ("watch", "test_with_entries"),
    "0.6.4": ("watch", "test_network_mounts_may_be_allowed"),
}


def test_every_gate_of_the_client_is_listed() -> None:
    known = {value for value in vars(versions).values() if isinstance(value, Version)} - {versions.ENVD_DEBUG_FALLBACK}
    assert {str(version) for version in known} <= set(GATES)


def test_the_version_is_plain() -> None:
    assert Version(ENVD_VERSION).release == tuple(int(part) for part in ENVD_VERSION.split("."))


@pytest.mark.parametrize("gate", GATES)
def test_each_gate_that_is_open_has_its_test(gate: str) -> None:
    assert Version(gate) <= Version(ENVD_VERSION)
    file, test = GATES[gate]
    path = CONFORMANCE / (f"{file}.py" if file.startswith("..") else f"test_{file}.py")
    functions = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert test in functions
