"""``allowPublicTraffic`` and ``maskRequestHost`` as clients see them."""

from __future__ import annotations

from pathlib import Path

import httpx

from cube.api.app import create_api
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, running_master

NETWORK = {"allowPublicTraffic": False, "maskRequestHost": "app.test:${PORT}"}


async def test_the_token_is_in_every_answer_that_gives_access(api: httpx.AsyncClient, master: Master) -> None:
    body = {"templateID": "base", "network": NETWORK}
    created = (await api.post("/v2/sandboxes", json=body)).json()
    sandbox_id, token = created["sandboxID"], created["trafficAccessToken"]
    assert len(token) >= 32
    assert token != created["envdAccessToken"]
    assert master.service.ingress(sandbox_id).traffic_access_token == token
    assert (await api.post(f"/v2/sandboxes/{sandbox_id}/connect")).json()["trafficAccessToken"] == token
    await api.post(f"/sandboxes/{sandbox_id}/pause")
    assert (await api.post(f"/sandboxes/{sandbox_id}/resume")).json()["trafficAccessToken"] == token
    detail = (await api.get(f"/sandboxes/{sandbox_id}")).json()
    assert detail["network"] == NETWORK
    assert token not in (await api.get("/v2/sandboxes")).text


async def test_an_open_sandbox_has_none(api: httpx.AsyncClient) -> None:
    created = (await api.post("/v2/sandboxes", json={"templateID": "base"})).json()
    assert "trafficAccessToken" not in created
    assert "network" not in (await api.get(f"/sandboxes/{created['sandboxID']}")).json()


async def test_a_host_that_is_none_is_named(api: httpx.AsyncClient) -> None:
    body = {"templateID": "base", "network": {"maskRequestHost": "a b"}}
    answer = await api.post("/v2/sandboxes", json=body)
    assert (answer.status_code, "network.maskRequestHost" in answer.json()["message"]) == (400, True)


async def test_both_survive_a_restart(tmp_path: Path) -> None:
    node, clock = FakeNode(), FakeClock()
    answers = []
    for _ in range(2):
        async with running_master(tmp_path, node, clock) as master:
            transport = httpx.ASGITransport(create_api(master.service, master.settings))
            async with httpx.AsyncClient(transport=transport, base_url="http://cube") as api:
                if not answers:
                    await api.post("/v2/sandboxes", json={"templateID": "base", "network": NETWORK})
                (sandbox,) = (await api.get("/v2/sandboxes")).json()
                connected = await api.post(f"/v2/sandboxes/{sandbox['sandboxID']}/connect")
                detail = (await api.get(f"/sandboxes/{sandbox['sandboxID']}")).json()
                answers.append((connected.json()["trafficAccessToken"], detail["network"]))
    assert answers[0] == answers[1]
