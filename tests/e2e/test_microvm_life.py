"""A service with machines that is killed, started again, and ended: nothing is lost, and nothing is left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from support.images import build_test_template
from support.service import Service, footprint, remains
from support.vm_node import keep_between_runs

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

_PART = 11
_MORE = {"CUBE_RUNTIME": "microvm", "CUBE_WARM_POOL": "0", "CUBE_WARM_POOL_MAX": "2"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Not started; what takes long to make is kept between runs."""
    state = tmp_path / "own" / "state"
    templates = keep_between_runs(state)
    if not any("minimal" in path.read_text() for path in templates.glob("*/template.json")):
        build_test_template(state / "templates")
    service = Service(tmp_path / "own", templates, _PART, more=_MORE)
    try:
        yield service
    finally:
        service.close()
        shutil.rmtree(tmp_path, ignore_errors=True)


def create(service: Service) -> Sandbox:
    return Sandbox.create("minimal", timeout=600, request_timeout=300, **service.client)  # type: ignore[arg-type]


def test_a_service_that_was_killed_finds_its_machines_again(service: Service) -> None:
    service.up()
    running, paused = create(service), create(service)
    for box in (running, paused):
        box.files.write("f.txt", box.sandbox_id)
    paused.pause()
    service.kill()
    service.up()
    assert running.files.read("f.txt") == running.sandbox_id
    assert running.commands.run("echo answers", timeout=60).stdout == "answers\n"
    paused.connect(timeout=600)
    assert paused.files.read("f.txt") == paused.sandbox_id


@pytest.mark.parametrize("crash", [False, True], ids=["running", "killed"])
def test_down_leaves_nothing_behind(service: Service, crash: bool) -> None:
    before = footprint(service)
    service.up()
    create(service)
    create(service).pause()
    during = footprint(service)
    if crash:
        service.kill()
    service.down()
    assert remains(before, during, footprint(service)) == {}
