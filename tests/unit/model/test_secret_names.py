from __future__ import annotations

import pytest
from e2b import Secret as E2bSecret

from cube.model.errors import InvalidInput
from cube.model.secrets import canonical_name, fill, references


def test_names_are_kept_in_lower_case() -> None:
    assert canonical_name("OpenAI-Api_Key.1") == "openai-api_key.1"


@pytest.mark.parametrize("name", ["", "a b", "a{b", "a}b", "a/b", "a?b", "a\n", "a\x7f", "sec_1", "Sec_1", "x" * 129])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        canonical_name(name)
    assert caught.value.field == "name"


def test_placeholders_are_those_of_the_client() -> None:
    text = f"Bearer {E2bSecret.fill('Key')} and {E2bSecret.fill('other')}"
    assert references(text) == {"key", "other"}
    assert fill(text, {"key": "1", "other": "2"}.__getitem__) == "Bearer 1 and 2"


def test_values_are_taken_as_they_are() -> None:
    values = {"a": "${e2b.secrets.b}\\1", "b": "never"}
    assert fill("${e2b.secrets.a}", values.__getitem__) == "${e2b.secrets.b}\\1"


@pytest.mark.parametrize(
    "text", ["", "${e2b.secrets.}", "${e2b.secrets.a", "$e2b.secrets.a}", "${e2b.identity.tokens.a}"]
)
def test_everything_else_stays(text: str) -> None:
    assert references(text) == frozenset()
    assert fill(text, dict[str, str]().__getitem__) == text
