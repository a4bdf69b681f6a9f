from __future__ import annotations

import pytest

from cube.envd.aligned import PAGE, aligned_buffer, is_aligned


@pytest.mark.parametrize("size", [PAGE, 256 * PAGE, 1024 * PAGE])
def test_a_buffer_begins_with_a_page(size: int) -> None:
    buffer = aligned_buffer(size)
    assert len(buffer) == size
    assert not any(buffer)
    assert is_aligned(buffer)


def test_it_can_be_filled_where_it_is() -> None:
    buffer = aligned_buffer(2 * PAGE)
    buffer[PAGE:] = b"x" * PAGE
    assert is_aligned(buffer)
    assert bytes(buffer) == bytes(PAGE) + b"x" * PAGE


def test_what_begins_or_ends_within_a_page_is_not_aligned() -> None:
    view = memoryview(aligned_buffer(4 * PAGE))
    assert is_aligned(view[PAGE:])
    assert not is_aligned(view[1 : PAGE + 1])
    assert not is_aligned(view[: PAGE + 1])


def test_memory_that_cannot_be_written_is_not_said_to_be_aligned() -> None:
    assert not is_aligned(bytes(PAGE))
    assert not is_aligned(memoryview(aligned_buffer(PAGE)).toreadonly())
