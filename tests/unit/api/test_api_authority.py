"""Answers that are remembered, and how much a caller may ask."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from cube.api import authentication, authority
from cube.api.app import create_api
from cube.api.authentication import RateLimit, TokenBuckets
from cube.api.authority import Answers
from cube.settings import Settings
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import running_master


def test_answers_are_remembered_for_a_while() -> None:
    clock = FakeClock()
    answers = Answers(5, clock.elapsed)
    assert answers.get("a") is None
    answers.put("a", answer=True)
    answers.put("b", answer=False)
    clock.advance(4.9)
    assert (answers.get("a"), answers.get("b")) == (True, False)
    clock.advance(0.1)
    assert answers.get("a") is None


def test_no_seconds_remember_nothing() -> None:
    answers = Answers(0, FakeClock().elapsed)
    answers.put("a", answer=True)
    assert answers.get("a") is None


def test_only_so_many_answers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "_REMEMBERED", 2)
    answers = Answers(5, FakeClock().elapsed)
    for key in "abca":
        answers.put(key, answer=True)
    assert [answers.get(key) for key in "abc"] == [True, None, True]


def test_a_seconds_worth_can_be_saved_up_and_no_more() -> None:
    clock = FakeClock()
    buckets = TokenBuckets(4, clock.elapsed)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.25]
    clock.advance(0.25)
    assert [buckets.take("a") for _ in range(2)] == [0, 0.25]
    clock.advance(3600)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.25]


def test_callers_do_not_share() -> None:
    buckets = TokenBuckets(1, FakeClock().elapsed)
    assert [buckets.take(key) for key in "aabb"] == [0, 1, 0, 1]


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "_REMEMBERED", 1)
    buckets = TokenBuckets(1, FakeClock().elapsed)
    assert [buckets.take(key) for key in "aba"] == [0, 0, 0]


async def test_whoever_asks_too_often_is_told_when_to_come_back() -> None:
    limited = RateLimit(
        PlainTextResponse("ok"), buckets=TokenBuckets(2, FakeClock().elapsed), open_paths=frozenset({"/health"})
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://cube") as client:
        answers = [await client.get("/", headers={"X-API-KEY": "a"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "1"
        assert answers[2].headers["should-retry"] == "true"
        assert answers[2].json()["code"] == 429
        assert (await client.get("/", headers={"Authorization": "Bearer b"})).status_code == 200
        assert (await client.get("/health", headers={"X-API-KEY": "a"})).status_code == 200


@pytest.mark.parametrize("settings", [{"api_key": "e2b_00"}, {"auth_callback_url": "http://127.0.0.1:1"}])
async def test_an_application_without_its_authority_is_not_made(tmp_path: Path, settings: dict[str, str]) -> None:
    async with running_master(tmp_path, FakeNode(), FakeClock()) as master:
        with pytest.raises(ValueError, match="authority"):
            create_api(master.service, Settings.model_validate(settings))
