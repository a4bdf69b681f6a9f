"""Files that change while they are sent."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from stat import S_IFREG
from typing import Any, cast

import pytest

from cube.envd.files.blocking import CHUNK
from cube.envd.files.download import send_content
from cube.envd.guest import Entry, FileType, GuestFile, OpenedFile
from cube.model.errors import HostError


class File:
    """Content, which may be other than what was there when the file was opened."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_at(self, size: int, offset: int) -> asyncio.Future[bytes]:
        read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        read.set_result(self._content[offset : offset + size])
        return read


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def get(content: bytes, size_before: int, *headers: tuple[bytes, bytes]) -> Answer:
    entry = Entry(
        path="/f", type=FileType.FILE, mode=S_IFREG | 0o644, link_mode=S_IFREG | 0o644, size=size_before,
        mtime_ns=1, uid=0, gid=0, owner="root", group="root",
    )  # fmt: skip
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "GET", "headers": list(headers)}
    await send_content(scope, receive, send, OpenedFile(cast(GuestFile, File(content)), entry))
    start, *pieces = messages
    return Answer(start["status"], dict(start["headers"]), b"".join(piece["body"] for piece in pieces))


@pytest.mark.parametrize("content", [b"", b"new"])
async def test_a_short_file_that_is_written_anew_is_sent_as_it_is_now(content: bytes) -> None:
    answer = await get(content, 100)
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers[b"content-length"] == b"%d" % len(content)
    # It is not what the entry says: nobody must keep it under that name.
    assert b"etag" not in answer.headers


async def test_a_short_file_that_grows_is_sent_as_far_as_it_was() -> None:
    answer = await get(b"before and after", 6)
    assert answer.body == b"before"
    assert b"etag" in answer.headers


async def test_a_compressed_file_that_is_cut_off_ends_with_what_is_left() -> None:
    answer = await get(b"left", 4 * CHUNK, (b"accept-encoding", b"gzip"))
    assert gzip.decompress(answer.body) == b"left"


async def test_a_long_file_that_is_cut_off_breaks_its_promise_of_a_length() -> None:
    with pytest.raises(HostError, match="became shorter"):
        await get(b"left", 4 * CHUNK)
