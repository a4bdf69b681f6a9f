"""Volumes over HTTP: what the E2B client does not show of them, and what it must never see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cube.api.app import create_api
from cube.api.authority import authority
from support.master import Master

pytestmark = pytest.mark.root


async def make(api: httpx.AsyncClient, name: str = "data") -> tuple[str, dict[str, str]]:
    """Where the content of a new volume is, and what opens it."""
    answer = await api.post("/volumes", json={"name": name})
    assert answer.status_code == 201, answer.text
    return f"/volumecontent/{answer.json()['volumeID']}", {"Authorization": f"Bearer {answer.json()['token']}"}


async def put(api: httpx.AsyncClient, url: str, token: dict[str, str], path: str, content: Any) -> httpx.Response:
    return await api.put(f"{url}/file", params={"path": path}, content=content, headers=token)


async def test_the_life_of_a_volume(api: httpx.AsyncClient) -> None:
    made = (await api.post("/volumes", json={"name": "data"})).json()
    assert made.keys() == {"volumeID", "name", "token", "createdAt", "quotaBytes", "usedBytes"}
    assert (await api.get(f"/volumes/{made['volumeID']}")).json() == made
    listed = (await api.get("/volumes")).json()
    assert [(volume["volumeID"], volume["name"]) for volume in listed] == [(made["volumeID"], "data")]
    assert "token" not in listed[0]
    assert (await api.delete(f"/volumes/{made['volumeID']}")).status_code == 204
    for answer in (await api.delete(f"/volumes/{made['volumeID']}"), await api.get(f"/volumes/{made['volumeID']}")):
        assert (answer.status_code, answer.json()["code"]) == (404, 404)
    assert (await api.get("/cubeapi/v1/volumes")).json() == []


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "a/b"}, {"name": "a b"}, {"name": 1}, {"name": "x" * 129}])
async def test_what_is_no_name_is_refused(api: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await api.post("/volumes", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("name: ")


async def test_a_name_is_taken_once(api: httpx.AsyncClient) -> None:
    await make(api)
    answer = await api.post("/volumes", json={"name": "data"})
    assert (answer.status_code, answer.json()["message"]) == (409, "a volume with the name 'data' exists already")


async def test_a_volume_in_use_stays(api: httpx.AsyncClient) -> None:
    url, _ = await make(api)
    mounts = [{"name": "data", "path": "/mnt/data"}]
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", "volumeMounts": mounts})
    sandbox = answer.json()["sandboxID"]
    for listing in ((await api.get("/v2/sandboxes")).json()[0], (await api.get(f"/sandboxes/{sandbox}")).json()):
        assert listing["volumeMounts"] == mounts
    answer = await api.delete(url.replace("volumecontent", "volumes"))
    assert answer.status_code == 409
    assert sandbox in answer.json()["message"]
    await api.delete(f"/sandboxes/{sandbox}")
    assert (await api.delete(url.replace("volumecontent", "volumes"))).status_code == 204


async def test_an_unknown_volume_is_a_wrong_field(api: httpx.AsyncClient) -> None:
    body = {"templateID": "base", "volumeMounts": [{"name": "none", "path": "/mnt"}]}
    answer = await api.post("/v2/sandboxes", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("volumeMounts[0].name: ")


async def test_only_its_token_opens_a_volume(api: httpx.AsyncClient) -> None:
    url, token = await make(api)
    _, other = await make(api, "other")
    gone, its = await make(api, "gone")
    await api.delete(gone.replace("volumecontent", "volumes"))
    requests = [
        ("GET", "path"),
        ("PATCH", "path"),
        ("DELETE", "path"),
        ("GET", "dir"),
        ("POST", "dir"),
        ("PUT", "file"),
    ]
    for method, kind in [*requests, ("GET", "file")]:
        for headers in ({}, other, {"Authorization": "Bearer"}, {"Authorization": f"Basic {token}"}):
            more = {"json": {}} if method == "PATCH" else {}
            answer = await api.request(method, f"{url}/{kind}?path=/x", headers=headers, **more)
            assert (answer.status_code, answer.json()["code"]) == (401, "401"), (method, kind)
    assert (await api.get(f"{url}/dir?path=/", headers=token)).json() == []
    answer = await api.get(f"{gone}/dir?path=/", headers=its)
    assert (answer.status_code, answer.json()["code"]) == (404, "404")


@pytest.mark.parametrize(
    ("method", "url", "field"),
    [
        ("GET", "path", "path"),
        ("GET", "path?path=", "path"),
        ("GET", "path?path=/" + "x" * 5000, "path"),
        ("GET", "dir?path=/&depth=11", "depth"),
        ("GET", "dir?path=/&depth=x", "depth"),
        ("POST", "dir?path=/d&mode=99999", "mode"),
        ("POST", "dir?path=/d&uid=-1", "uid"),
        ("POST", "dir?path=/d&gid=65536", "gid"),
        ("PUT", "file?path=/f&force=perhaps", "force"),
        ("DELETE", "path?path=/", "path"),
        ("PUT", "file?path=/", "path"),
    ],
)
async def test_what_is_wrong_is_named(api: httpx.AsyncClient, method: str, url: str, field: str) -> None:
    content, token = await make(api)
    answer = await api.request(method, f"{content}/{url}", headers=token)
    assert (answer.status_code, answer.json()["code"]) == (400, "400")
    assert field in answer.json()["message"]


@pytest.mark.parametrize("body", [{"mode": -1}, {"uid": 70000}, {"gid": "x"}, {"mode": True}, []])
async def test_wrong_metadata_is_named(api: httpx.AsyncClient, body: object) -> None:
    content, token = await make(api)
    await put(api, content, token, "/f", b"")
    answer = await api.patch(f"{content}/path?path=/f", json=body, headers=token)
    assert answer.status_code == 400


async def test_uploads_have_no_limit_and_downloads_have_ranges(api: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes([number]) * (1 << 20)

    url, token = await make(api)
    assert (await put(api, url, token, "/big", pieces())).json()["size"] == 3 << 20
    file = f"{url}/file?path=/big"
    whole = await api.get(file, headers={**token, "Accept-Encoding": "identity"})
    assert (len(whole.content), whole.content[-1]) == (3 << 20, 2)
    part = await api.get(file, headers={**token, "Range": "bytes=1048575-1048576"})
    assert (part.status_code, part.content) == (206, b"\0\1")
    again = await api.get(file, headers={**token, "If-None-Match": whole.headers["etag"]})
    assert again.status_code == 304
    assert (await put(api, url, token, "/empty", b"")).status_code == 201
    assert (await api.get(f"{url}/file?path=/empty", headers=token)).content == b""


async def test_an_encoded_upload_is_refused(api: httpx.AsyncClient) -> None:
    url, token = await make(api)
    answer = await put(api, url, {**token, "Content-Encoding": "gzip"}, "/f", b"x")
    assert (answer.status_code, "Content-Encoding" in answer.json()["message"]) == (400, True)


async def test_the_key_of_the_api_is_not_asked_for_and_opens_nothing(master: Master) -> None:
    settings = master.settings.model_copy(update={"api_key": "e2b_1"})
    async with authority(settings) as who:
        transport = httpx.ASGITransport(create_api(master.service, settings, who))
        key = {"X-API-KEY": "e2b_1"}
        async with httpx.AsyncClient(transport=transport, base_url="http://cube") as api:
            assert (await api.post("/volumes", json={"name": "data"})).status_code == 401
            made = (await api.post("/volumes", json={"name": "data"}, headers=key)).json()
            url = f"/volumecontent/{made['volumeID']}/dir?path=/"
            assert (await api.get(url, headers={"Authorization": f"Bearer {made['token']}"})).status_code == 200
            for headers in (key, {"Authorization": "Bearer e2b_1"}):
                assert (await api.get(url, headers=headers)).status_code == 401
            answer = await api.get("/volumes", headers={"Authorization": f"Bearer {made['token']}"})
            assert answer.status_code == 401


async def test_unknown_places_of_a_volume(api: httpx.AsyncClient) -> None:
    url, token = await make(api)
    for method, path, status in (("GET", "other", 404), ("POST", "path", 405), ("GET", "", 404)):
        answer = await api.request(method, f"{url}/{path}", headers=token)
        assert (answer.status_code, answer.json()["code"]) == (status, str(status))
