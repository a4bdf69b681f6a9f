"""The unmodified E2B SDK against the API, for everything that does not touch the inside of a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from e2b import (
    AsyncSandbox,
    NotFoundException,
    RateLimitException,
    Sandbox,
    SandboxException,
    SandboxQuery,
    SandboxState,
)
from e2b.exceptions import SandboxNotFoundException

from support.api_server import ApiServer, running_api

UNKNOWN = "i0000000000000000000"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with running_api(tmp_path, max_sandboxes=5) as server:
        monkeypatch.setenv("E2B_API_KEY", "e2b_" + "0" * 40)
        monkeypatch.setenv("E2B_API_URL", server.url)
        yield server


def test_create_and_look(server: ApiServer) -> None:
    before = datetime.now(UTC)
    sandbox = Sandbox.create("base", timeout=120, metadata={"user": "alice"}, envs={"A": "1"})
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert (info.template_id, info.name) == ("tpl-base", "base")
    assert (info.metadata, info.state) == ({"user": "alice"}, SandboxState.RUNNING)
    assert (info.cpu_count, info.memory_mb, info.envd_version) == (1, 256, "0.6.13")
    assert before <= info.started_at <= datetime.now(UTC)
    assert abs(info.end_at - info.started_at - timedelta(seconds=120)) < timedelta(seconds=5)
    assert sandbox.get_host(80) == f"80-{sandbox.sandbox_id}.localhost:3000"
    assert server.node.specs[sandbox.sandbox_id].env_vars == {"A": "1"}


def test_kill_says_whether_there_was_something(server: ApiServer) -> None:
    sandbox = Sandbox.create("base")
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert Sandbox.kill(UNKNOWN) is False
    assert server.node.alive == {}


def test_set_timeout(server: ApiServer) -> None:
    sandbox = Sandbox.create("base", timeout=60)
    sandbox.set_timeout(600)
    info = sandbox.get_info()
    assert info.end_at - info.started_at > timedelta(seconds=590)
    with pytest.raises(SandboxException, match="timeout"):
        sandbox.set_timeout(10**6)


def test_pause_and_connect(server: ApiServer) -> None:
    sandbox = Sandbox.create("base")
    assert sandbox.pause() is True
    assert sandbox.pause() is False
    assert sandbox.get_info().state is SandboxState.PAUSED
    again = Sandbox.connect(sandbox.sandbox_id, timeout=600)
    assert again.sandbox_id == sandbox.sandbox_id
    assert again.get_info().state is SandboxState.RUNNING
    assert again._envd_access_token == sandbox._envd_access_token


def test_list_with_filters_and_pages(server: ApiServer) -> None:
    odd = {"ключ & co": "a b+c%20=/?"}
    plain, special = Sandbox.create("base"), Sandbox.create("base", metadata=odd)
    special.pause()
    everything = Sandbox.list(limit=1)
    found = []
    while everything.has_next:
        found += [info.sandbox_id for info in everything.next_items()]
    assert found == [special.sandbox_id, plain.sandbox_id]
    for query, expected in (
        (SandboxQuery(metadata=odd), [special]),
        (SandboxQuery(metadata={"ключ & co": "other"}), []),
        (SandboxQuery(state=[SandboxState.RUNNING]), [plain]),
        (SandboxQuery(state=[SandboxState.PAUSED, SandboxState.RUNNING]), [special, plain]),
    ):
        items = Sandbox.list(query=query).next_items()
        assert [info.sandbox_id for info in items] == [sandbox.sandbox_id for sandbox in expected]


def test_metrics(server: ApiServer) -> None:
    (metric,) = Sandbox.create("base").get_metrics()
    assert (metric.mem_used, metric.mem_total, metric.cpu_count) == (1 << 20, 256 << 20, 1)


def test_automatic_pause(server: ApiServer) -> None:
    sandbox = Sandbox.create("base", lifecycle={"on_timeout": "pause", "auto_resume": True})
    assert sandbox.get_info().lifecycle == {"on_timeout": "pause", "auto_resume": True}


def test_errors_are_those_of_the_sdk(server: ApiServer) -> None:
    with pytest.raises(SandboxException, match="nope"):
        Sandbox.create("nope")
    for call in (Sandbox.get_info, Sandbox.connect, Sandbox.get_metrics):
        with pytest.raises(SandboxNotFoundException):
            call(UNKNOWN)
    with pytest.raises(NotFoundException):
        Sandbox.set_timeout(UNKNOWN, 10)
    for _ in range(5):
        Sandbox.create("base")
    with pytest.raises(RateLimitException, match="5 sandboxes"):
        Sandbox.create("base", request_timeout=1)


async def test_the_asynchronous_client(server: ApiServer) -> None:
    sandbox = await AsyncSandbox.create("base")
    await sandbox.set_timeout(30)
    await sandbox.pause()
    await AsyncSandbox.connect(sandbox.sandbox_id)
    assert await sandbox.kill()
