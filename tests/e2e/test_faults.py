"""Careless clients and crashes against a whole service: nothing leaks, what runs stays reachable, deletion succeeds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox

from support.service import Service, footprint, remains

pytestmark = pytest.mark.root

#: See :class:`support.service.Service`.
_PART = 14


@pytest.fixture
def service(templates: Path, tmp_path: Path) -> Service:
    """A service for one test, not started yet."""
    return Service(tmp_path, templates, _PART)


def create(service: Service) -> str | None:
    """Id of a new sandbox; ``None`` when the service went away meanwhile."""
    try:
        answer = httpx.post(f"{service.url}/v2/sandboxes", json={"templateID": "base"}, timeout=60, trust_env=False)
    except httpx.TransportError:
        return None
    return str(answer.json()["sandboxID"]) if answer.status_code == 201 else None


def delete(service: Service, sandbox_id: str) -> int:
    return httpx.delete(f"{service.url}/sandboxes/{sandbox_id}", timeout=60, trust_env=False).status_code


def listed(service: Service) -> set[str]:
    return {sandbox["sandboxID"] for sandbox in service.get("/v2/sandboxes").json()}


def test_kill_9_while_fifty_sandboxes_are_created(service: Service) -> None:
    before = footprint(service)
    service.up()
    try:
        old = Sandbox.create("base", **service.client)
        old.files.write("kept", "x")
        with ThreadPoolExecutor(50) as pool:
            wanted = [pool.submit(create, service) for _ in range(50)]
            deadline = time.monotonic() + 60
            while len(listed(service)) < 10:
                assert time.monotonic() < deadline
            service.kill()
            told = {found for future in wanted if (found := future.result()) is not None}
        service.up()
        running = listed(service)
        assert told <= running, "who was told of a sandbox finds it"
        assert old.files.read("kept") == "x"
        for sandbox_id in running:
            assert Sandbox.connect(sandbox_id, **service.client).commands.run("echo on").stdout == "on\n"
        during = footprint(service)
        assert {delete(service, sandbox_id) for sandbox_id in running} == {204}
        assert listed(service) == set()
    finally:
        service.close()
    assert remains(before, during, footprint(service)) == {}


def test_deletes_at_once_and_twice(service: Service) -> None:
    service.up()
    try:
        sandbox_id = create(service)
        assert sandbox_id is not None
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda _: delete(service, sandbox_id), range(8)))
        assert sorted(codes) == [204] + [404] * 7
        assert delete(service, sandbox_id) == 404
    finally:
        service.close()
