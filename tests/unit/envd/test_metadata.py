from __future__ import annotations

from typing import Any

import pytest

from cube.envd.files.metadata import KEY_LIMIT, TOTAL_LIMIT, metadata_headers
from cube.model.errors import InvalidInput


def scope(*headers: tuple[str, str]) -> dict[str, Any]:
    return {"headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]}


def test_keys_are_lower_case() -> None:
    assert metadata_headers(scope(("X-Metadata-My-Key", "V a l"), ("Content-Type", "x"))) == {"my-key": "V a l"}


def test_none() -> None:
    assert metadata_headers(scope()) == {}


def test_the_longest() -> None:
    assert metadata_headers(scope(("x-metadata-" + "k" * KEY_LIMIT, "v" * (TOTAL_LIMIT - KEY_LIMIT))))


@pytest.mark.parametrize(
    "headers",
    [
        [("x-metadata-", "v")],
        [("x-metadata-" + "k" * (KEY_LIMIT + 1), "v")],
        [("x-metadata-k", "grün")],
        [("x-metadata-k", "tab\t")],
        [("x-metadata-k", "v" * TOTAL_LIMIT)],
        [(f"x-metadata-{number}", "v" * 500) for number in range(9)],
    ],
)
def test_beyond_the_bounds(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput):
        metadata_headers(scope(*headers))
