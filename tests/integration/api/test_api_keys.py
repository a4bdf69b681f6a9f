from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from support.api_server import running_api

KEY = "e2b_00112233445566778899"


def test_a_server_with_a_key_asks_for_it_everywhere_but_at_health(tmp_path: Path) -> None:
    with running_api(tmp_path, api_key=KEY) as server, httpx.Client(base_url=server.url) as client:
        for path in ("/health", "/cubeapi/v1/health"):
            assert client.get(path).status_code == 200
        for path in ("/sandboxes", "/cubeapi/v1/sandboxes", "/templates", "/openapi.json", "/docs", "/nope"):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers={"X-API-KEY": KEY}).status_code != 401, path
        refused = client.post("/sandboxes", json={"templateID": "base"}, headers={"X-API-KEY": "e2b_wrong"})
        assert refused.json()["code"] == 401
        assert server.node.calls == []


def test_the_sdk_raises_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from e2b import AuthenticationException, Sandbox

    with running_api(tmp_path, api_key=KEY) as server:
        options = {"api_url": server.url}
        with pytest.raises(AuthenticationException):
            Sandbox.create("base", api_key="e2b_ff", **options)  # type: ignore[arg-type]
        Sandbox.create("base", api_key=KEY, **options)  # type: ignore[arg-type]
