"""Settings that cannot be used are refused in words, whatever the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def cube(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cube.cli.main", *words]
    return subprocess.run(line, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "command", [("up",), ("status",), ("env",), ("template", "list"), ("network", "ls"), ("vm", "ls")]
)
def test_the_variable_its_value_and_its_meaning_are_named(command: tuple[str, ...]) -> None:
    done = cube(*command, CUBE_PORT="0")
    assert done.returncode == 2
    assert done.stderr.startswith("error: CUBE_PORT=0 cannot be used: ")
    assert "Public port" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_of_them_in_one_json_document() -> None:
    done = cube("env", "--json", CUBE_PORT="x", CUBE_HOST_MOUNT_PREFIXES="/")
    said = json.loads(done.stdout)["error"]
    assert "CUBE_PORT=x" in said
    assert "the whole host cannot be given to sandboxes" in said


def test_settings_that_do_not_go_together() -> None:
    assert "tls_certificate and tls_key go together" in cube("env", CUBE_TLS_KEY="/there").stderr


@pytest.mark.parametrize("name", ["CUBE_NODE_TOKEN", "CUBE_API_KEY"])
def test_a_secret_is_not_shown(name: str) -> None:
    done = cube("env", **{name: "\x01hidden\n"})
    assert "hidden" not in done.stderr


def test_an_option_that_is_no_address() -> None:
    done = cube("network-agent", "--health-listen", "nonsense")
    assert done.returncode == 2
    assert "127.0.0.1:19090" in done.stderr
