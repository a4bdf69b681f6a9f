"""Watch streams and polled watchers at the level of the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from cube.envd.filesystem import watching
from support.connect_rpc import RpcClient
from support.envd_server import EnvdServer
from support.local_guest import LocalGuest

WATCH = "filesystem.Filesystem/WatchDir"
CREATE = "filesystem.Filesystem/CreateWatcher"
EVENTS = "filesystem.Filesystem/GetWatcherEvents"


def until(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 10
    while not (value := condition()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.005)
    return value


class TestStream:
    def test_start_comes_first_then_changes(self, rpc: RpcClient, guest: LocalGuest) -> None:
        with rpc.stream(WATCH, {"path": ""}) as stream:
            assert next(stream) == {"start": {}}
            (guest.home / "a").touch()
            assert next(stream) == {"filesystem": {"name": "a", "type": "EVENT_TYPE_CREATE"}}

    def test_a_sign_of_life(self, rpc: RpcClient) -> None:
        with rpc.stream(WATCH, {"path": ""}, Keepalive_Ping_Interval="1") as stream:
            next(stream)
            assert next(stream) == {"keepalive": {}}

    def test_a_time_limit(self, rpc: RpcClient, guest: LocalGuest) -> None:
        with rpc.stream(WATCH, {"path": ""}, Connect_Timeout_Ms="100") as stream:
            assert list(stream) == [{"start": {}}]
        assert stream.end is not None
        assert stream.end["error"]["code"] == "deadline_exceeded"
        until(lambda: guest.watches[0].closed)

    def test_a_client_that_leaves(self, rpc: RpcClient, guest: LocalGuest) -> None:
        with rpc.stream(WATCH, {"path": ""}) as stream:
            next(stream)
        until(lambda: guest.watches[0].closed)

    def test_the_sandbox_stops(self, rpc: RpcClient, server: EnvdServer, guest: LocalGuest) -> None:
        with rpc.stream(WATCH, {"path": ""}) as stream:
            next(stream)
            server.run(server.sandboxes.close_state("i1"))
            assert list(stream) == []
        assert stream.end is not None
        assert stream.end["error"]["code"] == "unavailable"
        until(lambda: guest.watches[0].closed)

    def test_a_storm_of_changes(self, rpc: RpcClient, guest: LocalGuest) -> None:
        with rpc.stream(WATCH, {"path": ""}) as stream:
            next(stream)
            for number in range(500):
                (guest.home / str(number)).touch()
            names = [message["filesystem"]["name"] for message in islice(stream, 500)]
        assert names == [str(number) for number in range(500)]


class TestPolling:
    def test_events_are_given_once(self, rpc: RpcClient, guest: LocalGuest) -> None:
        watcher = rpc.unary(CREATE, {"path": ""}).json()
        (guest.home / "a").touch()
        assert rpc.unary(EVENTS, watcher).json() == {"events": [{"name": "a", "type": "EVENT_TYPE_CREATE"}]}
        assert rpc.unary(EVENTS, watcher).json() == {}

    def test_they_are_collected_while_nobody_asks(
        self, rpc: RpcClient, guest: LocalGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching, "EVENT_LIMIT", 3)
        watcher = rpc.unary(CREATE, {"path": ""}).json()
        for number in range(5):
            (guest.home / str(number)).touch()
        events = rpc.unary(EVENTS, watcher).json()["events"]
        assert [event["name"] for event in events] == ["2", "3", "4"]

    def test_removed_means_gone(self, rpc: RpcClient, guest: LocalGuest) -> None:
        watcher = rpc.unary(CREATE, {"path": ""}).json()
        assert rpc.unary("filesystem.Filesystem/RemoveWatcher", watcher).json() == {}
        assert guest.watches[0].closed
        for method in ("GetWatcherEvents", "RemoveWatcher"):
            answer = rpc.unary(f"filesystem.Filesystem/{method}", watcher)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    def test_there_is_a_limit(self, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watching, "WATCHER_LIMIT", 1)
        assert rpc.unary(CREATE, {"path": ""}).status_code == 200
        assert rpc.unary(CREATE, {"path": ""}).json()["code"] == "resource_exhausted"

    def test_the_sandbox_stops(self, rpc: RpcClient, server: EnvdServer, guest: LocalGuest) -> None:
        rpc.unary(CREATE, {"path": ""})
        server.run(server.sandboxes.close_state("i1"))
        assert guest.watches[0].closed
        assert rpc.unary(CREATE, {"path": ""}).json()["code"] == "unavailable"
