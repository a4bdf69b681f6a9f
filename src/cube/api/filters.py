"""Query parameters of listings, which E2B's clients encode in ways of their own."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote

from cube.master.sandboxes.lifecycle import VisibleState
from cube.model.errors import InvalidInput

#: Most pairs that a filter may have.
_MOST_PAIRS = 128


def metadata_filter(text: str | None) -> dict[str, str]:
    """A filter by metadata.

    It is a query string inside the query string, whose keys and values are percent-encoded once more: ``a b`` arrives
    here as ``a%2520b``.
    """
    try:
        pairs = parse_qsl(text or "", keep_blank_values=True, max_num_fields=_MOST_PAIRS)
    except ValueError:
        raise InvalidInput(f"metadata must not have more than {_MOST_PAIRS} pairs", field="metadata") from None
    return {unquote(key): unquote(value) for key, value in pairs}


def split_list(values: Sequence[str]) -> list[str]:
    """A list given as repeated parameters, joined by commas, or both."""
    return [item for value in values for item in value.split(",") if item]


def state_filter(values: Sequence[str]) -> frozenset[VisibleState]:
    """A filter by state; everything when none is given."""
    try:
        return frozenset(VisibleState(name) for name in split_list(values)) or frozenset(VisibleState)
    except ValueError:
        raise InvalidInput("state must be `running`, `paused`, or both joined by a comma", field="state") from None
