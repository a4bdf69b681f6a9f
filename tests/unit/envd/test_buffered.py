from __future__ import annotations

import asyncio
from typing import cast

import pytest

from cube.envd.files.blocking import CHUNK
from cube.envd.files.buffered import BufferedWriter
from cube.envd.guest import Buffer, GuestFile


class SlowFile:
    """A file whose writes end when a test says so."""

    def __init__(self) -> None:
        self.writes: list[Buffer] = []
        self.ends: list[asyncio.Future[None]] = []

    def write(self, data: Buffer) -> asyncio.Future[None]:
        self.writes.append(data)
        self.ends.append(asyncio.get_running_loop().create_future())
        return self.ends[-1]


@pytest.fixture
def file() -> SlowFile:
    return SlowFile()


@pytest.fixture
def writer(file: SlowFile) -> BufferedWriter:
    return BufferedWriter(cast("GuestFile", file))


async def test_small_pieces_are_put_together(file: SlowFile, writer: BufferedWriter) -> None:
    for _ in range(4):
        await writer.write(b"ab")
    assert file.writes == []
    finishing = asyncio.create_task(writer.finish())
    await asyncio.sleep(0)
    file.ends[0].set_result(None)
    await finishing
    assert [bytes(one) for one in file.writes] == [b"abababab"]


async def test_a_big_piece_is_written_as_it_is(file: SlowFile, writer: BufferedWriter) -> None:
    piece = memoryview(bytearray(CHUNK))
    await writer.write(piece)
    assert file.writes[0] is piece


async def test_a_big_piece_waits_for_what_came_before(file: SlowFile, writer: BufferedWriter) -> None:
    await writer.write(b"first")
    await writer.write(b"x" * CHUNK)
    assert bytes(file.writes[0]).startswith(b"firstx")
    second = asyncio.create_task(writer.write(b"y" * CHUNK))
    await asyncio.sleep(0)
    assert len(file.writes) == 1, "one write at a time"
    file.ends[0].set_result(None)
    await second
    assert file.writes[1] == b"y" * CHUNK
