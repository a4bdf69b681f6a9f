"""``cube bench`` against a running service, with counts that make it short. Durations are not judged here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.service import Service

#: The service of this file.
PART = 5


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("bench"), templates, PART)
    service.up()
    try:
        yield service
    finally:
        service.close()


def report(service: Service, *arguments: str) -> dict[str, Any]:
    return json.loads(service.run("bench", *arguments, "--json").stdout)


def test_create_beside_rivals(service: Service) -> None:
    """A rival that cannot run on this machine is listed with its reason; the others are compared."""
    found = report(service, "create", "--count", "3", "--vs", "runc", "--vs", "bwrap", "--vs", "crun")
    for name in ("runc", "bwrap", "crun"):
        assert (name in found["absent"]) != (name in found["results"])
    assert found["results"]["runc"]["milliseconds"]["create+exec"]["count"] == 3
    assert found["figures"]["cube's p50 beside runc's"]["value"] > 0


def test_a_rival_that_nobody_knows_is_refused(service: Service) -> None:
    done = service.run("bench", "create", "--vs", "lxc", "--json", check=False)
    assert done.returncode == 1
    assert "no rival 'lxc'" in json.loads(done.stdout)["error"]


def test_run_code(service: Service) -> None:
    marks = report(service, "run-code", "--count", "2", "--later", "2")["results"]["cube"]["milliseconds"]
    assert marks.keys() == {"create", "first", "create+first", "later"}


def test_pause(service: Service) -> None:
    assert report(service, "pause", "--count", "2")["results"]["cube"]["milliseconds"]["resume+exec"]["count"] == 2


def test_files(service: Service) -> None:
    found = report(service, "files", "--megabytes", "8", "--repeats", "1", "--small", "2")
    assert {"upload", "upload, form", "download"} <= found["figures"].keys()


def test_tti(service: Service) -> None:
    found = report(service, "tti", "--count", "2", "--burst", "4")
    assert found["figures"]["burst, succeeded"] == {"value": 4, "unit": "of 4"}


def test_density(service: Service) -> None:
    found = report(service, "density", "--count", "20", "--alive", "100")
    assert found["figures"]["alive at once"]["value"] == 100
    assert found["figures"]["of which answered a command"]["value"] == 100


def test_creates_alone_are_measured_and_ended_afterwards(service: Service) -> None:
    found = report(service, "create", "--count", "6", "--concurrency", "3", "--keep")
    assert set(found["results"]["cube"]["milliseconds"]) == {"create"}
    assert service.get("/v2/sandboxes").json() == []


def test_nothing_is_compared_with_creates_alone(service: Service) -> None:
    done = service.run("bench", "create", "--keep", "--vs", "runc", "--json", check=False)
    assert done.returncode == 1
    assert "--vs" in json.loads(done.stdout)["error"]


def test_a_report_in_markdown_begins_with_its_command(service: Service) -> None:
    printed = service.run("bench", "create", "--count", "2", "--no-exec", "--markdown").stdout
    assert printed.startswith("```sh\ncube bench create --count 2 --no-exec\n```")


@pytest.fixture(scope="module")
def network(service: Service) -> dict[str, Any]:
    """On machines of its own, so it needs no service; here one runs beside it, which it does not touch."""
    return report(service, "network", "--count", "3")


def test_network(network: dict[str, Any]) -> None:
    results, figures = network["results"], network["figures"]
    assert results.keys() == {"EnsureNetwork, tap", "EnsureNetwork, veth", "GetTapFile", "adding a policy"}
    assert results["EnsureNetwork, veth"]["milliseconds"]["ensure"]["count"] == 3
    assert figures["TCP, with a policy"]["value"] > 0
    assert figures["recovery after kill -9, all networks"]["value"] > 0


def test_n6_the_ways_to_a_tap_are_measured_beside_each_other(network: dict[str, Any]) -> None:
    """Cached against made anew is what the three ways are for."""
    ways = network["results"]["GetTapFile"]["milliseconds"]
    assert ways.keys() == {"cached", "pool", "restored"}
    assert ways["cached"]["p50"] < ways["restored"]["p50"]
    assert ways["cached"].keys() >= {"p50", "p99"}
    assert network["figures"]["EnsureNetwork, tap"]["unit"] == "per second"
