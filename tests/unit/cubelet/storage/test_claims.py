from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.storage.claims import Claims
from cube.model.errors import TemplateNotFound
from cube.settings import Settings


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    (tmp_path / "templates/tpl-1").mkdir(parents=True)
    (tmp_path / "templates/tpl-2").mkdir()
    return Claims(Settings(state_dir=tmp_path))


def test_a_claim_stands_until_it_is_released(claims: Claims) -> None:
    for holder in ("snap-1", "snap-2", "snap-1"):
        claims.make("tpl-1", holder)
    claims.make("tpl-2", "snap-1")
    assert claims.holders("tpl-1") == ["snap-1", "snap-2"]
    claims.release("snap-1")
    claims.release("snap-1")
    assert (claims.holders("tpl-1"), claims.holders("tpl-2")) == (["snap-2"], [])


def test_what_is_not_there_cannot_be_claimed(claims: Claims) -> None:
    with pytest.raises(TemplateNotFound):
        claims.make("tpl-3", "snap-1")
    assert claims.holders("tpl-3") == []


def test_claims_of_those_that_are_gone_are_taken_back(claims: Claims) -> None:
    for holder in ("snap-1", "i1", "snap-2"):
        claims.make("tpl-1", holder)
    claims.keep_only({"i1"})
    assert claims.holders("tpl-1") == ["i1"]


def test_nothing_is_claimed_before_the_first(tmp_path: Path) -> None:
    claims = Claims(Settings(state_dir=tmp_path / "new"))
    claims.release("snap-1")
    claims.keep_only(())
    assert claims.holders("tpl-1") == []
