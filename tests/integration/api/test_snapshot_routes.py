"""``/snapshots``, rollback, fork and pauses without memory, over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from cube.model.errors import HostError, SandboxStopped, StorageFull
from cube.model.sandbox import Condition
from integration.api.test_rest import create, error
from support.master import Master, eventually

SNAPSHOT = "snap-" + "0" * 24


async def take(api: httpx.AsyncClient, sandbox_id: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post(f"/sandboxes/{sandbox_id}/snapshots", json=fields)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_snapshot_as_clients_see_it(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api, metadata={"a": "b"}))["sandboxID"]
    body = await take(api, sandbox_id, name="mine", memory=True)
    snapshot_id = body.pop("snapshotID")
    assert snapshot_id.startswith("snap-")
    assert body == {
        "names": ["mine:default"],
        "memory": False,
        "status": "ready",
        "originSandboxID": sandbox_id,
        "templateID": "tpl-base",
        "createdAt": "2026-06-01T12:00:00Z",
        "updatedAt": "2026-06-01T12:00:00Z",
        "cpuCount": 1,
        "memoryMB": 256,
        "diskSizeMB": 5120,
        "runtime": "fake",
        "metadata": {"a": "b"},
    }
    assert (await api.get("/snapshots")).json() == [{"snapshotID": snapshot_id, **body}]
    made = await create(api, templateID=snapshot_id)
    assert made["templateID"] == snapshot_id
    assert (await api.get(f"/sandboxes/{made['sandboxID']}")).json()["templateID"] == snapshot_id


@pytest.mark.parametrize("body", [None, {}, {"name": None}, {"name": ""}])
async def test_a_name_may_be_left_out(api: httpx.AsyncClient, body: dict[str, Any] | None) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    answer = await api.post(f"/sandboxes/{sandbox_id}/snapshots", json=body)
    assert (answer.status_code, answer.json()["names"]) == (201, [])


@pytest.mark.parametrize(
    ("body", "field"),
    [({"name": "A b"}, "name"), ({"name": 1}, "name"), ({"memory": "no"}, "memory"), ({"name": "x" * 401}, "name")],
)
async def test_a_bad_wish_names_its_field(api: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    code, message = error(await api.post(f"/sandboxes/{sandbox_id}/snapshots", json=body))
    assert (code, field in message) == (400, True)


async def test_listing(api: httpx.AsyncClient, master: Master) -> None:
    first, second = [(await create(api))["sandboxID"] for _ in range(2)]
    made = []
    for number in range(5):
        made.append(await take(api, (first, second)[number % 2], name=f"x:v{number}"))
        master.clock.advance(1)
    pages, token = [], ""
    while True:
        answer = await api.get("/snapshots", params={"limit": 2, "nextToken": token})
        pages.append([snapshot["snapshotID"] for snapshot in answer.json()])
        token = answer.headers.get("x-next-token", "")
        if not token:
            break
    newest_first = [snapshot["snapshotID"] for snapshot in reversed(made)]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    for query, numbers in (
        ({"sandboxID": second}, [3, 1]),
        ({"name": "x"}, [4, 3, 2, 1, 0]),
        ({"name": "x:v2"}, [2]),
        ({"name": made[1]["snapshotID"]}, [1]),
        ({"name": "y"}, []),
    ):
        found = (await api.get("/snapshots", params=query)).json()
        assert [snapshot["snapshotID"] for snapshot in found] == [made[n]["snapshotID"] for n in numbers], query
    for bad in ({"limit": 0}, {"limit": 101}, {"nextToken": "nonsense"}, {"nextToken": "x" * 200}):
        code, message = error(await api.get("/snapshots", params=bad))
        assert (code, next(iter(bad)) in message) == (400, True)


@pytest.mark.parametrize("reference", ["snapshotID", "team/mine:v2", "team%2Fmine%3Av2"])
async def test_deleting(api: httpx.AsyncClient, reference: str) -> None:
    snapshot = await take(api, (await create(api))["sandboxID"], name="team/mine:v2")
    path = f"/templates/{snapshot.get(reference, reference)}"
    answer = await api.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    uuid.UUID(answer.headers["x-operation-id"])
    code, message = error(await api.delete(path))
    assert (code, "template" in message) == (404, True)
    assert error(await api.post("/sandboxes", json={"templateID": snapshot["snapshotID"]}))[0] == 404


@pytest.mark.parametrize(("reference", "code"), [(SNAPSHOT, 404), ("nobody", 404), ("A b", 404), ("base", 501)])
async def test_what_is_no_snapshot_is_not_deleted(api: httpx.AsyncClient, reference: str, code: int) -> None:
    assert error(await api.delete(f"/templates/{reference}"))[0] == code


async def test_rollback(api: httpx.AsyncClient, master: Master) -> None:
    body = await create(api)
    path = f"/sandboxes/{body['sandboxID']}"
    snapshot_id = (await take(api, body["sandboxID"], name="mine"))["snapshotID"]
    answer = await api.post(f"{path}/rollback", json={"snapshotID": "mine"})
    assert answer.status_code == 200
    found = answer.json()
    uuid.UUID(found.pop("operationID"))
    assert found == {"sandboxID": body["sandboxID"], "snapshotID": snapshot_id, "status": "success"}
    assert (await api.get(path)).json()["envdAccessToken"] == body["envdAccessToken"]
    for wrong in ({}, {"snapshotID": ""}, {"snapshotID": 1}, {"snapshotID": "x" * 401}):
        code, message = error(await api.post(f"{path}/rollback", json=wrong))
        assert (code, "snapshotID" in message) == (400, True)
    assert error(await api.post(f"{path}/rollback", json={"snapshotID": SNAPSHOT}))[0] == 404
    master.node.fail("rollback", SandboxStopped("it was stopped"), StorageFull("full"))
    assert error(await api.post(f"{path}/rollback", json={"snapshotID": snapshot_id}))[0] == 500
    detail = (await api.get(path)).json()
    assert (detail["state"], detail["pauseMode"]) == ("paused", "filesystem")
    assert error(await api.post(f"{path}/rollback", json={"snapshotID": snapshot_id}))[0] == 409
    await api.post(f"{path}/connect")
    assert error(await api.post(f"{path}/rollback", json={"snapshotID": snapshot_id}))[0] == 507
    assert "pauseMode" not in (await api.get(path)).json()


async def test_forks(api: httpx.AsyncClient, master: Master) -> None:
    sandbox_id = (await create(api, metadata={"a": "b"}))["sandboxID"]
    master.node.fail("create", HostError("no luck"))
    answer = await api.post(f"/sandboxes/{sandbox_id}/fork", json={"count": 3, "timeout": 60})
    assert answer.status_code == 201
    results = answer.json()
    assert [set(result) for result in results].count({"sandbox"}) == 2
    (failed,) = (result["error"] for result in results if "error" in result)
    assert failed == {"code": 500, "message": "no luck"}
    for result in results:
        if "sandbox" in result:
            detail = (await api.get(f"/sandboxes/{result['sandbox']['sandboxID']}")).json()
            assert (detail["metadata"], detail["endAt"]) == ({"a": "b"}, "2026-06-01T12:01:00Z")
            assert result["sandbox"]["envdAccessToken"] == detail["envdAccessToken"]


async def test_a_fork_lives_for_fifteen_seconds_unless_told_otherwise(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    ((result),) = (await api.post(f"/sandboxes/{sandbox_id}/fork")).json()
    detail = (await api.get(f"/sandboxes/{result['sandbox']['sandboxID']}")).json()
    assert (detail["startedAt"], detail["endAt"]) == ("2026-06-01T12:00:00Z", "2026-06-01T12:00:15Z")


@pytest.mark.parametrize(
    ("body", "field"),
    [({"count": 0}, "count"), ({"count": 101}, "count"), ({"count": "2"}, "count"), ({"timeout": -2}, "timeout")],
)
async def test_a_bad_fork_names_its_field(api: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    code, message = error(await api.post(f"/sandboxes/{sandbox_id}/fork", json=body))
    assert (code, field in message) == (400, True)


async def test_a_pause_may_keep_the_files_alone(api: httpx.AsyncClient, master: Master) -> None:
    path = f"/sandboxes/{(await create(api))['sandboxID']}"
    assert (await api.post(f"{path}/pause", json={"memory": False})).status_code == 204
    assert set(master.node.alive.values()) == {Condition.STOPPED}
    assert error(await api.post(f"{path}/pause", json={"memory": False}))[0] == 409
    assert (await api.get(path)).json()["pauseMode"] == "filesystem"
    assert (await api.post(f"{path}/connect", json={})).status_code == 201
    await api.post(f"{path}/pause")
    assert (await api.get(path)).json()["pauseMode"] == "full"
    assert (await api.post(f"{path}/resume", json={"memory": False})).status_code == 201
    assert master.node.memory_resumed == [True, False]
    assert (await api.post(f"{path}/connect", json={"memory": False})).status_code == 200


async def test_an_automatic_pause_may_keep_the_files_alone(api: httpx.AsyncClient, master: Master) -> None:
    await create(api, autoPause=True, autoPauseMemory=False, timeout=10)
    await master.pass_time(11)
    await eventually(lambda: set(master.node.alive.values()) == {Condition.STOPPED})
    wrong = {"templateID": "base", "autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}}
    code, message = error(await api.post("/v2/sandboxes", json=wrong))
    assert (code, "autoResume" in message) == (400, True)
