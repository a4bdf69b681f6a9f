"""Secrets over HTTP, with attention to what is never told."""

from __future__ import annotations

import httpx
import pytest
from structlog.testing import capture_logs

VALUE = "sk-that-nobody-may-see"


async def make(api: httpx.AsyncClient, name: str = "key", **more: object) -> httpx.Response:
    return await api.post("/secrets", json={"name": name, "value": VALUE, **more})


async def test_the_life_of_a_secret(api: httpx.AsyncClient) -> None:
    answer = await make(api, "OpenAI-Key", metadata={"env": "test"})
    made = answer.json()
    assert answer.status_code == 201
    assert made.keys() == {"secretID", "name", "currentVersion", "metadata", "createdAt", "updatedAt"}
    assert (made["name"], made["currentVersion"], made["metadata"]) == ("openai-key", 1, {"env": "test"})
    for reference in (made["secretID"], "openai-key", "OpenAI-Key"):
        assert (await api.get(f"/secrets/{reference}")).json() == made
    updated = (await api.post("/secrets/openai-key", json={"value": VALUE + "2"})).json()
    assert (updated["currentVersion"], updated["metadata"]) == (2, {"env": "test"})
    updated = (await api.post(f"/secrets/{made['secretID']}", json={"value": VALUE, "metadata": {}})).json()
    assert (updated["currentVersion"], updated["metadata"]) == (3, {})
    assert (await api.delete("/secrets/openai-key")).status_code == 204
    for answer in (
        await api.get("/secrets/openai-key"),
        await api.delete("/secrets/openai-key"),
        await api.post("/secrets/openai-key", json={"value": "x"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, 404)


async def test_a_name_is_taken_once(api: httpx.AsyncClient) -> None:
    await make(api)
    assert (await make(api, "KEY")).status_code == 409


async def test_pages(api: httpx.AsyncClient) -> None:
    for number in range(5):
        await make(api, f"key{number}")
    answer, names = await api.get("/secrets?limit=2"), []
    while True:
        names += [secret["name"] for secret in answer.json()]
        if not (token := answer.headers.get("x-next-token")):
            break
        answer = await api.get("/secrets", params={"limit": 2, "nextToken": token})
    assert sorted(names) == [f"key{number}" for number in range(5)]
    for query in ("limit=0", "limit=101", "nextToken=x"):
        answer = await api.get(f"/secrets?{query}")
        assert answer.status_code == 400
        assert query.partition("=")[0] in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"value": VALUE}, "name"),
        ({"name": "a b", "value": VALUE}, "name"),
        ({"name": "sec_x", "value": VALUE}, "name"),
        ({"name": "a{b}", "value": VALUE}, "name"),
        ({"name": "a"}, "value"),
        ({"name": "a", "value": ""}, "value"),
        ({"name": "a", "value": f"{VALUE}\r\nX-Evil: 1"}, "value"),
        ({"name": "a", "value": f" {VALUE}"}, "value"),
        ({"name": "a", "value": VALUE * 1000}, "value"),
        ({"name": "a", "value": "ä" * 10_000}, "value"),
        ({"name": "a", "value": VALUE, "metadata": {"k": 1}}, "metadata"),
        ({"name": "a", "value": VALUE, "metadata": {str(n): "" for n in range(33)}}, "metadata"),
        ({"name": "a", "value": VALUE, "metadata": {"k" * 129: ""}}, "metadata"),
        ({"name": "a", "value": VALUE, "metadata": {"k": "v" * 1025}}, "metadata"),
        ({"name": "a", "value": VALUE, "metadata": {str(n): "v" * 1000 for n in range(9)}}, "metadata"),
        ({"name": "a", "value": VALUE, "metadata": {"ä" * 70: ""}}, "metadata"),
    ],
)
async def test_what_is_wrong_is_named_and_the_value_is_not(
    api: httpx.AsyncClient, body: dict[str, object], field: str
) -> None:
    with capture_logs() as logs:
        answer = await api.post("/secrets", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(field)
    assert VALUE not in answer.text + repr(logs)
    assert (await api.get("/secrets")).json() == []


async def test_no_answer_and_no_log_tells_a_value(api: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        answers = [
            await make(api),
            await make(api),
            await api.get("/secrets"),
            await api.get("/secrets/key"),
            await api.post("/secrets/key", json={"value": VALUE + "2"}),
            await api.post("/secrets/none", json={"value": VALUE + "2"}),
            await api.post("/secrets", content=f'{{"name": "x", "value": "{VALUE}'),
            await api.delete("/secrets/key"),
        ]
    assert VALUE not in "".join(answer.text + repr(answer.headers) for answer in answers) + repr(logs)
    assert logs
