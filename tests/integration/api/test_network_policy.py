"""Network policies as clients send and see them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cube.api.app import create_api
from cube.model.errors import HostError
from cube.model.network import NetworkConfig
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, running_master

ALL = "0.0.0.0/0"
RULE = {
    "name": "llm",
    "match": {"host": "api.a.test", "scheme": "https"},
    "action": {
        "allow": True,
        "inject": [{"header": "Authorization", "secret": "S3CR3T", "format": "Bearer ${SECRET}"}],
    },
}
POLICY = {"allowOut": ["a.test", "10.0.0.0/8"], "denyOut": [ALL], "rules": [RULE], "dns": "strict"}


async def created(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sandboxID"])


async def put(api: httpx.AsyncClient, sandbox_id: str, body: object) -> httpx.Response:
    return await api.put(f"/sandboxes/{sandbox_id}/network", json=body)


async def detail(api: httpx.AsyncClient, sandbox_id: str) -> Any:
    return (await api.get(f"/sandboxes/{sandbox_id}")).json()


async def test_the_node_is_told(api: httpx.AsyncClient, node: FakeNode) -> None:
    sandbox_id = await created(api, network=POLICY, allow_internet_access=False)
    told = node.specs[sandbox_id].network
    assert told.allow_internet_access is False
    assert told.allow_out == ("a.test", "10.0.0.0/8")
    assert told.rules[0].action.inject[0].secret == "S3CR3T"


async def test_nothing_said_is_nothing_shown(api: httpx.AsyncClient, node: FakeNode) -> None:
    sandbox_id = await created(api)
    assert node.specs[sandbox_id].network == NetworkConfig()
    shown = await detail(api, sandbox_id)
    assert "network" not in shown
    assert "allowInternetAccess" not in shown


async def test_e7_detail_shows_the_policy_with_secrets_masked(api: httpx.AsyncClient) -> None:
    sandbox_id = await created(api, network=POLICY, allow_internet_access=False)
    shown = await detail(api, sandbox_id)
    assert shown["allowInternetAccess"] is False
    assert shown["network"]["allowOut"] == POLICY["allowOut"]
    assert shown["network"]["rules"][0]["action"]["inject"] == [
        {"header": "Authorization", "secret": "***REDACTED***", "format": "Bearer ${SECRET}"}
    ]
    assert shown["network"]["dns"] == "strict"


async def test_e7_the_secret_is_in_no_answer_log_or_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_master(tmp_path, FakeNode(), FakeClock()) as master:
        transport = httpx.ASGITransport(create_api(master.service, master.settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://cube") as api:
            sandbox_id = await created(api, network=POLICY)
            wrong = {**POLICY, "rules": [{**RULE, "match": {"nonsense": 1}}]}
            answers = [
                await put(api, sandbox_id, POLICY),
                await put(api, sandbox_id, wrong),
                await api.get(f"/sandboxes/{sandbox_id}"),
                await api.get("/v2/sandboxes"),
                await api.get(f"/v2/sandboxes/{sandbox_id}/logs"),
            ]
    output = capfd.readouterr()
    assert b"S3CR3T" not in everything_in(tmp_path)
    for text in (*(answer.text for answer in answers), caplog.text, output.out, output.err):
        assert "S3CR3T" not in text
    assert "***REDACTED***" in answers[2].text


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("network", "field"),
    [
        ({"denyOut": ["a.test"]}, "network.denyOut[0]"),
        ({"allowOut": ["a.test"]}, "network.allowOut"),
        ({"allowOut": ["a.test"], "denyOut": ["10.0.0.0/8"]}, "network.allowOut"),
        ({"allowOut": ["not an entry"]}, "network.allowOut[0]"),
        ({"allowOut": "a.test"}, "network.allowOut"),
        ({"allowOut": [7]}, "network.allowOut.0"),
        ({"denyOut": [f"1.{n // 256}.{n % 256}.1" for n in range(8193)]}, "network.denyOut"),
        ({"rules": [{"match": [], "action": {"allow": True}}]}, "network.rules[0].match"),
        ({"rules": "x"}, "network.rules"),
        ({"rules": {"a.test": [{"transform": {"headers": {"bad header": "x"}}}]}}, "network.rules"),
        ({"dnsServers": ["x"]}, "network.dnsServers[0]"),
        ({"dns": "closed"}, "network.dns"),
        ({"limits": {"connections": 5}}, "network.limits.connections"),
    ],
)
async def test_e9_what_is_wrong_is_answered_400_and_named(
    api: httpx.AsyncClient, node: FakeNode, network: dict[str, Any], field: str
) -> None:
    answer = await api.post("/sandboxes", json={"templateID": "base", "network": network})
    assert answer.status_code == 400, answer.text
    assert field in answer.json()["message"]
    sandbox_id = await created(api)
    answer = await put(api, sandbox_id, network)
    assert answer.status_code == 400, answer.text
    assert field.removeprefix("network.") in answer.json()["message"]
    assert node.calls_of("update_network") == []


async def test_a_change_replaces_everything(api: httpx.AsyncClient, node: FakeNode) -> None:
    sandbox_id = await created(api, network=POLICY, allow_internet_access=False)
    assert (await put(api, sandbox_id, {"denyOut": ["203.0.113.9"]})).status_code == 204
    assert node.specs[sandbox_id].network == NetworkConfig(deny_out=("203.0.113.9",))
    assert (await put(api, sandbox_id, {"allow_internet_access": False})).status_code == 204
    assert node.specs[sandbox_id].network == NetworkConfig(allow_internet_access=False)
    assert (await put(api, sandbox_id, {})).status_code == 204
    assert node.specs[sandbox_id].network == NetworkConfig()
    assert "network" not in await detail(api, sandbox_id)


async def test_a_change_leaves_who_may_come_in_alone(api: httpx.AsyncClient) -> None:
    sandbox_id = await created(api, network={"allowPublicTraffic": False, "denyOut": [ALL]})
    await put(api, sandbox_id, {"denyOut": ["203.0.113.9"]})
    assert (await detail(api, sandbox_id))["network"] == {"allowPublicTraffic": False, "denyOut": ["203.0.113.9"]}


async def test_a_paused_sandbox_keeps_and_takes_policies(api: httpx.AsyncClient, node: FakeNode) -> None:
    sandbox_id = await created(api, network={"denyOut": [ALL]})
    await api.post(f"/sandboxes/{sandbox_id}/pause")
    assert (await detail(api, sandbox_id))["network"]["denyOut"] == [ALL]
    assert (await put(api, sandbox_id, {"denyOut": ["203.0.113.9"]})).status_code == 204
    await api.post(f"/sandboxes/{sandbox_id}/resume", json={})
    assert node.specs[sandbox_id].network.deny_out == ("203.0.113.9",)
    assert (await detail(api, sandbox_id))["network"]["denyOut"] == ["203.0.113.9"]


async def test_a_change_of_what_is_not_there(api: httpx.AsyncClient) -> None:
    assert (await put(api, "nosuchsandbox", {})).status_code == 404
    sandbox_id = await created(api)
    await api.delete(f"/sandboxes/{sandbox_id}")
    assert (await put(api, sandbox_id, {})).status_code == 404


async def test_a_change_while_something_else_is_done(api: httpx.AsyncClient, node: FakeNode, master: Master) -> None:
    sandbox_id = await created(api)
    gate = node.close_gate("update_network")
    running = asyncio.create_task(master.service.update_network(sandbox_id, NetworkConfig()))
    await node.called("update_network")
    assert (await put(api, sandbox_id, {})).status_code == 409
    gate.set()
    await running


async def test_a_change_that_the_node_refuses_changes_nothing(api: httpx.AsyncClient, node: FakeNode) -> None:
    sandbox_id = await created(api, network={"denyOut": [ALL]})
    node.fail("update_network", HostError("the kernel refused"))
    assert (await put(api, sandbox_id, {})).status_code == 500
    assert (await detail(api, sandbox_id))["network"]["denyOut"] == [ALL]


async def test_policies_survive_a_restart(tmp_path: Path) -> None:
    node, clock = FakeNode(), FakeClock()
    async with running_master(tmp_path, node, clock) as master:
        transport = httpx.ASGITransport(create_api(master.service, master.settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://cube") as api:
            first, second = await created(api, network=POLICY), await created(api, network=POLICY)
            await put(api, second, {"denyOut": ["203.0.113.9"]})
            before = {key: node.specs[key].network for key in (first, second)}
    node.specs.clear()
    async with running_master(tmp_path, node, clock):
        assert {key: node.specs[key].network for key in (first, second)} == before


async def test_sandboxes_of_versions_without_policies_stay_closed(tmp_path: Path) -> None:
    """They were created when nothing went out; a new version does not open them."""
    node, clock = FakeNode(), FakeClock()
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
        box = master.store.sandboxes._box
        sealed = box.seal(b'{"env_vars": {}, "envd_access_token": "t"}', sandbox.sandbox_id.encode())
        await master.store.sandboxes._writer.submit(
            lambda connection: connection.exec_driver_sql("UPDATE sandboxes SET secrets = ?", (sealed,)) and None
        )
    async with running_master(tmp_path, node, clock) as master:
        assert master.service.get(sandbox.sandbox_id).network == NetworkConfig(allow_internet_access=False)


async def test_the_template_s_policy_comes_first(api: httpx.AsyncClient, node: FakeNode) -> None:
    template = node.template_list[0]
    node.template_list[0] = replace(template, network=NetworkConfig(allow_out=("1.1.1.1",), deny_out=(ALL,)))
    sandbox_id = await created(api, network={"allowOut": ["a.test"]})
    assert node.specs[sandbox_id].network.allow_out == ("1.1.1.1", "a.test")
    sandbox_id = await created(api)
    assert node.specs[sandbox_id].network.deny_out == (ALL,)
    # What replaces a policy replaces the template's part of it too.
    await put(api, sandbox_id, {})
    assert node.specs[sandbox_id].network == NetworkConfig()
