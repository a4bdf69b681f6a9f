"""The life of a sandbox in its log."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cube.model.errors import HostError
from support.master import Master, eventually


async def entries(api: httpx.AsyncClient, sandbox_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await api.get(f"/v2/sandboxes/{sandbox_id}/logs", params=query)
    assert answer.status_code == 200, answer.text
    logs: list[dict[str, Any]] = answer.json()["logs"]
    return logs


async def create(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 60, **fields})
    return str(answer.json()["sandboxID"])


async def test_a_life(api: httpx.AsyncClient) -> None:
    sandbox_id = await create(api)
    for step in ("pause", "resume"):
        await api.post(f"/sandboxes/{sandbox_id}/{step}")
    await api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 100})
    await api.delete(f"/sandboxes/{sandbox_id}")
    logs = await entries(api, sandbox_id)
    assert [(entry["message"], entry["level"]) for entry in logs] == [
        ("Sandbox started", "info"),
        ("Sandbox paused", "info"),
        ("Sandbox runs again", "info"),
        ("Timeout changed", "debug"),
        ("Deleted by a client", "info"),
        ("Sandbox ended", "info"),
    ]
    assert logs[3]["fields"] == {"endAt": "2026-06-01T12:01:40+00:00"}


async def test_the_end_of_the_time(api: httpx.AsyncClient, master: Master) -> None:
    sandbox_id = await create(api)
    await master.pass_time(61)
    await eventually(lambda: not master.node.alive)
    await eventually(lambda: master.service.count() == 0)
    assert [entry["message"] for entry in await entries(api, sandbox_id)] == [
        "Sandbox started",
        "Timeout reached",
        "Sandbox ended",
    ]


async def test_a_pause_that_fails(api: httpx.AsyncClient, master: Master) -> None:
    sandbox_id = await create(api, autoPause=True)
    master.node.fail("pause", HostError("no luck"))
    await master.pass_time(61)
    assert [entry["message"] for entry in await entries(api, sandbox_id, level="error")] == [
        "Sandbox could not be paused"
    ]


async def test_a_death_is_an_error(api: httpx.AsyncClient, master: Master) -> None:
    sandbox_id = await create(api)
    master.node.die(sandbox_id)
    assert [entry["message"] for entry in await entries(api, sandbox_id, level="error")] == ["Sandbox died"]


async def test_older_clients_get_lines(api: httpx.AsyncClient) -> None:
    sandbox_id = await create(api)
    answer = (await api.get(f"/sandboxes/{sandbox_id}/logs")).json()
    assert answer["logs"] == [{"timestamp": "2026-06-01T12:00:00Z", "line": "Sandbox started"}]
    assert answer["logEntries"] == await entries(api, sandbox_id)


async def test_start_is_in_milliseconds(api: httpx.AsyncClient) -> None:
    sandbox_id = await create(api)
    noon = 1_780_315_200_000
    for start, found in ((noon, 1), (noon + 1, 0)):
        answer = (await api.get(f"/sandboxes/{sandbox_id}/logs", params={"start": start})).json()
        assert len(answer["logs"]) == found
        assert len(await entries(api, sandbox_id, cursor=start)) == found


@pytest.mark.parametrize(
    ("name", "value"),
    [("cursor", -1), ("cursor", 10**18), ("limit", 1001), ("limit", -1), ("direction", "up"), ("level", "loud")],
)
async def test_nonsense_is_named(api: httpx.AsyncClient, name: str, value: object) -> None:
    answer = await api.get(f"/v2/sandboxes/{await create(api)}/logs", params={name: value})  # type: ignore[dict-item]
    assert (answer.status_code, answer.json()["message"].startswith(name)) == (400, True)


async def test_an_unknown_sandbox(api: httpx.AsyncClient) -> None:
    for path in ("/sandboxes/i0/logs", "/v2/sandboxes/i0/logs"):
        assert (await api.get(path)).status_code == 404
