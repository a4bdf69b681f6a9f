"""Envoy itself reads the configuration that we make."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseError

from cube.proxy import clusters, resources
from cube.proxy.bootstrap import bootstrap
from cube.proxy.envoy import find_binary
from cube.proxy.listener import public_listener


def whole_configuration(directory: Path, host: str = "127.0.0.1", domain: str = "localhost") -> dict[str, Any]:
    """Everything in one file: what Envoy otherwise fetches stands beside the bootstrap."""
    config = bootstrap("cube", directory / "admin.sock", directory / "xds.sock")
    config["static_resources"]["listeners"] = [public_listener(host, 3000, domain, directory)]
    config["static_resources"]["clusters"] += [
        *(clusters.service(name, directory / f"{name}.sock") for name in ("api", "envd", "lookup")),
        clusters.sandboxes(),
    ]
    return config


def validate(config: dict[str, Any], path: Path) -> subprocess.CompletedProcess[str]:
    path.write_text(json.dumps(config))
    command = [str(find_binary()), "--mode", "validate", "--config-path", str(path), "--log-level", "warning"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_envoy_accepts_the_configuration(tmp_path: Path, host: str) -> None:
    result = validate(whole_configuration(tmp_path, host), tmp_path / "envoy.json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "no warning, no deprecated field"


def test_validation_can_fail(tmp_path: Path) -> None:
    config = whole_configuration(tmp_path)
    config["static_resources"]["listeners"][0]["no_such_field"] = 1
    assert validate(config, tmp_path / "envoy.json").returncode != 0


def test_version_of_a_resource_follows_its_content(tmp_path: Path) -> None:
    one = resources.cluster(clusters.service("api", tmp_path / "a"))
    same = resources.cluster(clusters.service("api", tmp_path / "a"))
    other = resources.cluster(clusters.service("api", tmp_path / "b"))
    assert (one.name, one.type_url) == ("api", "type.googleapis.com/envoy.config.cluster.v3.Cluster")
    assert one.version == same.version
    assert one.version != other.version


def test_misspelt_field_is_an_error() -> None:
    with pytest.raises(ParseError):
        resources.listener({"name": "x", "adress": {}})
