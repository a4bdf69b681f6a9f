from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies

from cube.envd.files.multipart import HEADER_LIMIT, PART_LIMIT, MultipartParser, PartBegin, PartData, PartEnd
from cube.model.errors import InvalidInput

Part = tuple[str, str | None, bytes]


def encode(parts: list[Part], boundary: str = "b0") -> bytes:
    body = b""
    for name, filename, content in parts:
        disposition = f'form-data; name="{name}"'
        if filename is not None:
            disposition += f'; filename="{filename}"'
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def parse(body: bytes, cuts: list[int] | None = None, boundary: str = "b0") -> list[Part]:
    parser = MultipartParser(boundary)
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts or [])})
    parts: list[Part] = []
    complete = 0
    for start, stop in pairwise(edges):
        for event in parser.feed(body[start:stop]):
            match event:
                case PartBegin(name, filename):
                    parts.append((name, filename, b""))
                case PartData(data):
                    assert data
                    name, filename, content = parts[-1]
                    parts[-1] = (name, filename, content + data)
                case PartEnd():
                    complete += 1
    parser.finish()
    assert complete == len(parts)
    return parts


contents = strategies.one_of(
    strategies.binary(max_size=200),
    # What looks like a boundary, but is not quite one.
    strategies.lists(
        strategies.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"b", b"0", b"\r\n"]), max_size=20
    ).map(b"".join),
).filter(lambda content: b"\r\n--b0" not in b"\r\n" + content)


@given(strategies.lists(contents, max_size=5), strategies.lists(strategies.integers(0, 5000), max_size=20))
def test_any_content_in_any_pieces(files: list[bytes], cuts: list[int]) -> None:
    parts: list[Part] = [("file", f"/a b/{number}", content) for number, content in enumerate(files)]
    assert parse(encode(parts), cuts) == parts


@given(strategies.lists(contents, max_size=5), strategies.integers(1, 100))
def test_it_is_known_where_in_the_body_a_part_begins(files: list[bytes], step: int) -> None:
    body = encode([("file", f"/{number}", content) for number, content in enumerate(files)])
    parser = MultipartParser("b0")
    begun = [
        parser.position
        for start in range(0, len(body), step)
        for event in parser.feed(body[start : start + step])
        if isinstance(event, PartBegin)
    ]
    assert [body[position - 4 : position] for position in begun] == [b"\r\n\r\n"] * len(files)
    assert [body[position:].startswith(content) for position, content in zip(begun, files, strict=True)] == [
        True
    ] * len(files)


@given(strategies.binary(max_size=300), strategies.lists(strategies.integers(0, 500), max_size=8))
def test_garbage_is_refused_or_parsed_but_never_crashes(body: bytes, cuts: list[int]) -> None:
    with pytest.raises(InvalidInput):
        parse(body, cuts, boundary="no such boundary")


def test_one_byte_at_a_time() -> None:
    body = encode([("file", "/x", b"hello\r\n--b"), ("other", None, b"")])
    assert parse(body, list(range(len(body)))) == [("file", "/x", b"hello\r\n--b"), ("other", None, b"")]


def test_the_whole_path_is_kept() -> None:
    assert parse(encode([("file", "/deep/er/../x", b"")]))[0][1] == "/deep/er/../x"


def test_preamble_epilogue_and_padding_are_skipped() -> None:
    part = b"--b0  \r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n1\r\n--b0--\r\n"
    assert parse(b"hello\r\n" + part + b"bye\r\n--b0\r\n") == [("file", "x", b"1")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b0",
        b"--b0\r\n",
        b"--b0\r\nContent-Disposition: form-data; name=file\r\n\r\ndata",
        b"--b0\r\nContent-Disposition: form-data; name=file\r\n\r\ndata\r\n--b0",
        b"--b0\r\nContent-Type: text/plain\r\n\r\ndata\r\n--b0--",
        b"--b0\r\nContent-Disposition: attachment; name=file\r\n\r\ndata\r\n--b0--",
        b"--b0\r\nContent-Disposition: form-data; name=\xff\r\n\r\ndata\r\n--b0--",
        b'--b0\r\nContent-Disposition: form-data; name="file\r\n\r\ndata\r\n--b0--',
        b"--b0\r\n\r\ndata\r\n--b0--",
        b"--b0 nonsense\r\n\r\ndata\r\n--b0--",
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body)


@pytest.mark.parametrize("boundary", ["", "x" * 201, "ü"])
def test_bad_boundaries_are_refused(boundary: str) -> None:
    with pytest.raises(InvalidInput):
        MultipartParser(boundary)


def test_headers_are_bounded() -> None:
    parser = MultipartParser("b0")
    with pytest.raises(InvalidInput, match="headers"):
        list(parser.feed(b"--b0\r\n" + b"X-Long: " + b"x" * HEADER_LIMIT + b"\r\n\r\n"))
    parser = MultipartParser("b0")
    with pytest.raises(InvalidInput, match="headers"):
        list(parser.feed(b"--b0" + b" " * (HEADER_LIMIT + 1)))


def test_parts_are_bounded() -> None:
    with pytest.raises(InvalidInput, match="parts"):
        parse(encode([("x", None, b"")] * (PART_LIMIT + 1)))


def test_memory_does_not_grow_with_the_content() -> None:
    parser = MultipartParser("b0")
    list(parser.feed(b"--b0\r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n"))
    for _ in range(100):
        got = sum(len(event.data) for event in parser.feed(bytes(10_000)) if isinstance(event, PartData))
        assert got >= 10_000 - 20
