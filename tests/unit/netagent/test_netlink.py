from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from cube.netagent import netlink
from cube.netagent.netlink import Message, attribute, nested, number, parse_attributes, text


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_come_back(values: dict[int, bytes]) -> None:
    packed = b"".join(attribute(kind, value) for kind, value in values.items())
    assert len(packed) % 4 == 0
    assert parse_attributes(packed) == values


@given(st.binary(max_size=200))
def test_garbage_is_no_error(data: bytes) -> None:
    parse_attributes(data)


def test_nesting_flag_is_no_part_of_the_type() -> None:
    outer = parse_attributes(nested(5, number(1, 7), text(2, "eth0")))
    assert parse_attributes(outer[5]) == {1: struct.pack("=I", 7), 2: b"eth0\0"}


def test_length_that_lies_ends_the_list() -> None:
    good = attribute(1, b"abcd")
    assert parse_attributes(good + struct.pack("=HH", 100, 2) + b"x") == {1: b"abcd"}
    assert parse_attributes(good + struct.pack("=HH", 3, 2)) == {1: b"abcd"}


def error(code: int, flags: int = 0, after: bytes = b"") -> OSError | None:
    request = struct.pack("=IHHII", 16, 0, 0, 0, 0)
    return netlink._failure(Message(2, flags, struct.pack("=i", -code) + request + after))


def test_acknowledgement_is_no_failure() -> None:
    assert error(0) is None


def test_failure_is_the_matching_os_error() -> None:
    failure = error(17)
    assert isinstance(failure, FileExistsError)
    assert failure.strerror == "File exists"


def test_failure_carries_the_words_of_the_kernel() -> None:
    failure = error(22, 0x100 | 0x200, text(1, "Nexthop has invalid gateway"))
    assert failure is not None
    assert failure.strerror == "Invalid argument: Nexthop has invalid gateway"
