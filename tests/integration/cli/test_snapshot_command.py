"""``cube snapshot`` as a process of its own, against the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from support.api_server import ApiServer, running_api


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with running_api(tmp_path) as server:
        yield server


def cube(server: ApiServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUBE_PORT": str(urlsplit(server.url).port)}
    command = [sys.executable, "-m", "cube.cli.main", "snapshot", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_snapshot_is_taken_shown_used_and_deleted(server: ApiServer) -> None:
    body = {"templateID": "base", "timeout": 300}
    sandbox_id = httpx.post(f"{server.url}/sandboxes", json=body, trust_env=False).json()["sandboxID"]
    (taken,) = json.loads(cube(server, "create", sandbox_id, "--name", "mine", "--json").stdout)
    assert taken["names"] == ["mine:default"]
    assert json.loads(cube(server, "list", "--sandbox", sandbox_id, "--json").stdout) == [taken]
    assert taken["snapshotID"] in cube(server, "list", "--name", "mine").stdout
    assert sandbox_id in cube(server, "rollback", sandbox_id, "mine").stdout
    assert json.loads(cube(server, "delete", "mine", "--json").stdout) == [taken]
    refused = cube(server, "delete", "mine", "--json")
    assert (refused.returncode, "not found" in json.loads(refused.stdout)["error"]) == (1, True)
    assert cube(server, "create", "i0nobody").returncode == 1
    assert json.loads(cube(server, "list", "--json").stdout) == []
