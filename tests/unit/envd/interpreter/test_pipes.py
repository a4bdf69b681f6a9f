"""Lines and pipes, with the other end in our hands."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.envd.interpreter.pipes import LineReader, LineSplitter, LineTooLong, Writer, last_words


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))), st.lists(st.integers(1, 30)))
def test_splitting_does_not_depend_on_the_blocks(lines: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found = LineSplitter(1000), []
    for size in [*sizes, len(stream) + 1]:
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == lines


def test_unfinished_line_is_bounded() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"a" * 10) == []
    with pytest.raises(LineTooLong):
        splitter.feed(b"a")


async def test_reader_waits_and_sees_the_end() -> None:
    read_end, write_end = os.pipe()
    reader = LineReader(read_end, 100)
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    os.write(write_end, b"one\ntwo\nunfinished")
    assert await waiting == [b"one", b"two"]
    os.close(write_end)
    assert await reader.read() is None
    reader.close()


async def test_cancelled_read_loses_nothing() -> None:
    read_end, write_end = os.pipe()
    reader = LineReader(read_end, 100)
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    os.write(write_end, b"line\n")
    assert await reader.read() == [b"line"]
    reader.close()
    os.close(write_end)


async def test_close_wakes_who_waits() -> None:
    read_end, write_end = os.pipe()
    reader = LineReader(read_end, 100)
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    reader.close()
    with pytest.raises(BrokenPipeError):
        await waiting
    with pytest.raises(BrokenPipeError):
        await reader.read()
    os.close(write_end)


async def test_writer_waits_for_room_and_keeps_the_order() -> None:
    read_end, write_end = os.pipe()
    writer, reader = Writer(write_end), LineReader(read_end, 2_000_000)
    lines = [bytes([letter]) * 1_000_000 for letter in b"ab"]
    async with asyncio.TaskGroup() as group:
        for line in lines:
            group.create_task(writer.write(line + b"\n"))
        assert await reader.read() == [lines[0]]
        assert await reader.read() == [lines[1]]
    writer.close()
    reader.close()


async def test_close_of_a_full_pipe_wakes_the_writer() -> None:
    read_end, write_end = os.pipe()
    writer = Writer(write_end)
    writing = asyncio.create_task(writer.write(b"x" * 1_000_000))
    await asyncio.sleep(0)
    writer.close()
    with pytest.raises(BrokenPipeError):
        await writing
    os.close(read_end)


async def test_nobody_reads() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = Writer(write_end)
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")
    writer.close()


def test_last_words() -> None:
    read_end, write_end = os.pipe()
    assert last_words(read_end) == ""
    os.write(write_end, b"Traceback\nModuleNotFoundError: x\xff\n\n")
    assert last_words(read_end) == "ModuleNotFoundError: x\ufffd"
    assert last_words(None) == ""
    os.close(read_end)
    os.close(write_end)
