"""The conversation with a zygote, without one."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct

import pytest

from cube.cubelet.runtime.microvm import forks
from cube.cubelet.runtime.microvm.forks import Belongings, ForkRefused


def answer(failed: int, stage: int = 0) -> bytes:
    return struct.pack("<iI", failed, stage)


@pytest.fixture
def belongings() -> Belongings:
    return Belongings([0, 0, 0], 0, 0, 0, 0, 0, groups=[0])


async def answered(theirs: socket.socket, said: bytes) -> bytes:
    """What was asked; it is answered with these bytes."""
    theirs.setblocking(False)
    asked = await asyncio.get_running_loop().sock_recv(theirs, 100)
    theirs.send(said)
    return asked


async def test_the_kernel_says_whose_answer_it_is(belongings: Belongings) -> None:
    ours, theirs = forks.pair()
    with ours, theirs:
        asked, pid = await asyncio.gather(answered(theirs, answer(0)), forks.fork(ours, 17, belongings))
    assert (asked, pid) == (struct.pack("<I", 17), os.getpid())


async def test_all_descriptors_travel(belongings: Belongings) -> None:
    ours, theirs = forks.pair()
    with ours, theirs:
        asking = asyncio.create_task(forks.fork(ours, 17, belongings))
        await asyncio.sleep(0)
        _, received, _, _ = socket.recv_fds(theirs, 100, 32)
        theirs.send(answer(0))
        await asking
        for fd in received:
            os.close(fd)
    assert len(received) == len(belongings.descriptors()) == 9


async def test_a_refusal_says_where_and_why(belongings: Belongings) -> None:
    ours, theirs = forks.pair()
    with ours, theirs, pytest.raises(ForkRefused, match=r"\(cgroup\): Permission denied"):
        await asyncio.gather(answered(theirs, answer(errno.EACCES, 5)), forks.fork(ours, 17, belongings))


async def test_a_stage_of_another_version_too(belongings: Belongings) -> None:
    ours, theirs = forks.pair()
    with ours, theirs, pytest.raises(ForkRefused, match=r"\(stage 99\)"):
        await asyncio.gather(answered(theirs, answer(errno.EIO, 99)), forks.fork(ours, 17, belongings))


async def test_one_that_ends_meanwhile(belongings: Belongings) -> None:
    ours, theirs = forks.pair()

    async def end() -> None:
        theirs.close()

    with ours, pytest.raises(ForkRefused, match="the zygote has ended"):
        await asyncio.gather(forks.fork(ours, 17, belongings), end())


async def test_one_that_has_ended_before(belongings: Belongings) -> None:
    ours, theirs = forks.pair()
    theirs.close()
    with ours, pytest.raises(ForkRefused, match="the zygote has ended"):
        await forks.fork(ours, 17, belongings)


async def test_one_that_is_silent(belongings: Belongings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE", 0.01)
    ours, theirs = forks.pair()
    with ours, theirs, pytest.raises(ForkRefused, match="did not answer"):
        await forks.fork(ours, 17, belongings)


def test_an_answer_without_a_sender() -> None:
    with pytest.raises(ForkRefused, match="who answers"):
        forks.decode(answer(0), [])
