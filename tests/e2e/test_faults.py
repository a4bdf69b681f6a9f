"""Careless clients and crashes against a whole service: nothing leaks, what runs stays reachable, deletion succeeds."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from support.service import Service, footprint, remains

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

#: See :class:`support.service.Service`.
_PART = 14
#: Sandboxes in stock would be found beside those that a test has made.
_NONE_AHEAD = {"CUBE_WARM_POOL": "0", "CUBE_WARM_POOL_MAX": "0"}


@pytest.fixture
def service(templates: Path, tmp_path: Path) -> Service:
    """A service for one test, not started yet."""
    return Service(tmp_path, templates, _PART, more=_NONE_AHEAD)


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


def test_delete_during_create(service: Service) -> None:
    """Clients learn an id from the answer alone; who has it from elsewhere may end what is not there yet."""
    service.up()
    try:
        with ThreadPoolExecutor(16) as pool:
            creating = [pool.submit(post, service, {"templateID": "base"}) for _ in range(16)]
            deleted: dict[str, int] = {}
            while not all(future.done() for future in creating):
                for place in (service.run_dir / "sandboxes").glob("*.sock"):
                    if place.stem not in deleted:
                        deleted[place.stem] = delete(service, place.stem)
            answers = [future.result() for future in creating]
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert set(deleted.values()) <= {204, 404}
        told = {answer.json()["sandboxID"] for answer in answers if answer.status_code == 201}
        assert listed(service) == told - {sandbox_id for sandbox_id, code in deleted.items() if code == 204}
        for sandbox_id in listed(service):
            assert delete(service, sandbox_id) == 204
        assert list((service.run_dir / "sandboxes").iterdir()) == []
    finally:
        service.close()


def post(service: Service, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{service.url}/v2/sandboxes", json=body, headers=headers, timeout=120, trust_env=False)


def test_a_repeated_create_makes_one_sandbox_however_many_send_it(service: Service) -> None:
    service.up()
    try:
        key = {"Idempotency-Key": "one"}
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: post(service, {"templateID": "base"}, **key), range(20)))
        assert {answer.status_code for answer in answers} == {201}
        (sandbox_id,) = {answer.json()["sandboxID"] for answer in answers}
        assert listed(service) == {sandbox_id}
        assert post(service, {"templateID": "base", "timeout": 7}, **key).status_code == 422
        service.kill()
        service.up()
        assert post(service, {"templateID": "base"}, **key).json()["sandboxID"] == sandbox_id
    finally:
        service.close()


def test_a_greedy_caller_makes_nobody_starve(templates: Path, tmp_path: Path) -> None:
    """300 creates of five callers, one of whom asks for 240: all are served, and the others do not wait for him."""
    service = Service(tmp_path, templates, _PART, more={**_NONE_AHEAD, "CUBE_MAX_SANDBOXES": "305"})
    service.up()
    try:
        callers = ["greedy"] * 240 + [f"modest{number % 4}" for number in range(60)]
        finished = asyncio.run(created_by(service, callers))
        assert [code for _, code in finished] == [201] * 300
        last = max(position for position, (caller, _) in enumerate(finished) if caller != "greedy")
        assert [caller for caller, _ in finished[last:]].count("greedy") > 60
        refused = [code for _, code in asyncio.run(created_by(service, ["late"] * 10))]
        assert sorted(refused) == [201] * 5 + [429] * 5
        assert int(post(service, {"templateID": "base"}).headers["Retry-After"]) > 0
    finally:
        service.close()


async def created_by(service: Service, callers: list[str]) -> list[tuple[str, int]]:
    """Callers and statuses in the order in which their creates, sent all at once, are answered."""
    finished: list[tuple[str, int]] = []
    limits = httpx.Limits(max_connections=len(callers))
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=300, trust_env=False) as client:

        async def create(caller: str) -> None:
            body = {"templateID": "base", "timeout": 3600}
            answer = await client.post("/v2/sandboxes", json=body, headers={"X-API-Key": caller})
            finished.append((caller, answer.status_code))

        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(create(caller))
    return finished
