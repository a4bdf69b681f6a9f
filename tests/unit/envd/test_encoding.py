from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, strategies

from cube.envd.files.encoding import STEP, Deflater, Inflater, identity_refused, wants_gzip
from cube.model.errors import InvalidInput


def inflate(body: bytes, piece: int = 1000) -> bytes:
    inflater = Inflater()
    output = b"".join(
        step for start in range(0, len(body), piece) for step in inflater.feed(body[start : start + piece])
    )
    inflater.finish()
    return output


@given(strategies.binary(max_size=5000), strategies.integers(1, 700))
def test_what_was_packed_comes_out(data: bytes, piece: int) -> None:
    assert inflate(gzip.compress(data), piece) == data


@given(strategies.lists(strategies.binary(max_size=500), max_size=5))
def test_what_we_pack_others_unpack(pieces: list[bytes]) -> None:
    deflater = Deflater()
    packed = b"".join(deflater.feed(piece) for piece in pieces) + deflater.finish()
    assert gzip.decompress(packed) == b"".join(pieces)


def test_members_after_one_another_are_one_body() -> None:
    assert inflate(gzip.compress(b"one ") + gzip.compress(b"two"), 7) == b"one two"


@pytest.mark.parametrize("total", [STEP - 1, STEP, STEP + 1, 5 * STEP + 17])
def test_a_bomb_comes_in_bounded_steps(total: int) -> None:
    inflater = Inflater()
    sizes = [len(step) for step in inflater.feed(gzip.compress(bytes(total)))]
    inflater.finish()
    assert sum(sizes) == total
    assert max(sizes) <= STEP


@pytest.mark.parametrize(
    "body",
    # Without a time in it, which would name the test differently at every collection.
    [b"", b"plain", gzip.compress(b"x" * 100, mtime=0)[:-3], gzip.compress(b"x", mtime=0) + b"trailing"],
)
def test_what_is_no_gzip_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        inflate(body)


def test_a_wrong_checksum_is_refused() -> None:
    body = bytearray(gzip.compress(b"content"))
    body[-6] ^= 0xFF
    with pytest.raises(InvalidInput):
        inflate(bytes(body))


def test_raw_deflate_is_no_gzip() -> None:
    with pytest.raises(InvalidInput):
        inflate(zlib.compress(b"content"))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("gzip", True),
        ("GZIP;q=0.5", True),
        ("gzip, identity;q=0", True),
        ("gzip;q=0", False),
        ("", False),
        ("identity", False),
        ("gzip, deflate", False),
        ("gzip, deflate, br, zstd", False),
        ("*", False),
        ("gzip;q=nonsense", False),
    ],
)
def test_only_who_names_gzip_alone_gets_it(accept: str, wanted: bool) -> None:
    assert wants_gzip(accept) is wanted


@pytest.mark.parametrize(
    ("accept", "refused"),
    [
        ("", False),
        ("identity;q=0", True),
        ("*;q=0", True),
        ("br, *;q=0", True),
        ("gzip, identity;q=0", False),
        ("gzip, *;q=0", False),
        ("br", False),
    ],
)
def test_nothing_acceptable(accept: str, refused: bool) -> None:
    assert identity_refused(accept) is refused
