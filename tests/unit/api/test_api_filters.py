from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.api.filters import metadata_filter, split_list, state_filter
from cube.master.sandboxes.lifecycle import VisibleState
from cube.model.errors import InvalidInput

CHARACTERS = st.characters(codec="utf-8")
TEXTS = st.text(CHARACTERS, min_size=1)


@given(st.dictionaries(TEXTS, st.text(CHARACTERS), max_size=5))
def test_what_the_clients_encode_is_decoded(metadata: dict[str, str]) -> None:
    quoted = {urllib.parse.quote(key): urllib.parse.quote(value) for key, value in metadata.items()}
    assert metadata_filter(urllib.parse.urlencode(quoted)) == metadata


@pytest.mark.parametrize("text", [None, "", "&", "&&"])
def test_no_filter(text: str | None) -> None:
    assert metadata_filter(text) == {}


@given(st.text(max_size=200))
def test_any_text_is_some_filter(text: str) -> None:
    metadata_filter(text)


def test_a_filter_has_a_bound() -> None:
    with pytest.raises(InvalidInput) as error:
        metadata_filter("&".join(f"{n}=1" for n in range(200)))
    assert error.value.field == "metadata"


def test_lists_are_repeated_or_joined() -> None:
    assert split_list(["a,b", "c", ""]) == ["a", "b", "c"]


def test_states() -> None:
    assert state_filter([]) == set(VisibleState)
    assert state_filter(["paused"]) == {VisibleState.PAUSED}
    assert state_filter(["running,paused"]) == set(VisibleState)
    with pytest.raises(InvalidInput) as error:
        state_filter(["killed"])
    assert error.value.field == "state"
