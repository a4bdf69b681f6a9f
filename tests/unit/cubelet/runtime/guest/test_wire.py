"""Bodies of messages: what is written is what is read, and what breaks the rules is refused."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.runtime.guest.wire import Failure, Reader, WireError, Writer


def test_fields_are_laid_out_as_documented() -> None:
    body = Writer().u16(0x0102).u32(3).i32(-1).u64(1 << 40).i64(-2).data(b"ab").finish()
    assert body == bytes.fromhex("0201 03000000 ffffffff 0000000000010000 feffffffffffffff 02000000 6162")


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**64 - 1), st.binary())
def test_what_is_written_is_read_back(a: int, b: int, c: int, d: bytes) -> None:
    reader = Reader(Writer().u32(a).i32(b).u64(c).i64(-5).data(d).finish())
    assert (reader.u32(), reader.i32(), reader.u64(), reader.i64(), reader.data()) == (a, b, c, -5, d)
    reader.end()


@given(st.lists(st.text().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))))
def test_lists_of_text_are_read_back(values: list[str]) -> None:
    reader = Reader(Writer().texts(values).finish())
    assert reader.items(reader.text) == values


def test_text_keeps_bytes_that_are_not_utf8() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert Reader(Writer().text(name).finish()).text() == name


@given(st.binary(max_size=64))
def test_no_body_makes_the_reader_do_anything_but_refuse(body: bytes) -> None:
    reader = Reader(body)
    try:
        reader.items(reader.text)
        reader.u64()
        reader.end()
    except WireError:
        pass


@pytest.mark.parametrize("body", [b"\x05\0\0\0abcd", b"\xff\xff\xff\xff", b"\x01\0"])
def test_a_field_beyond_the_end_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        Reader(body).data()


def test_a_list_that_cannot_fit_is_refused_before_it_is_read() -> None:
    reader = Reader(struct.pack("<I", 2**32 - 1) + bytes(64))
    with pytest.raises(WireError, match="cannot fit"):
        reader.items(reader.u32)


def test_bytes_that_are_left_over_are_refused() -> None:
    with pytest.raises(WireError, match="1 bytes too many"):
        Reader(b"x").end()


def test_a_failure_is_decoded() -> None:
    body = Writer().i32(2).u32(9).text("/etc").finish()
    assert Failure.decode(body) == Failure(2, 9, "/etc")
