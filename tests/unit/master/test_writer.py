from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, event, insert, select
from sqlalchemy import create_engine as sqlalchemy_engine

from cube.master.store.engine import sqlite_engine
from cube.master.store.writer import Writer
from cube.model.errors import HostError, StorageFull, Unavailable

TABLE = Table("t", MetaData(), Column("n", Integer, primary_key=True))


class Bench:
    """A writer on a database of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = sqlite_engine(path)
        TABLE.create(self.engine)
        self.commits = 0
        event.listen(self.engine, "commit", self._count)
        self.writer = Writer(self.engine)

    def add(self, number: int) -> asyncio.Future[None]:
        return self.writer.submit(lambda connection: _add(connection, number))

    def stored(self) -> list[int]:
        """What another process would find."""
        engine = sqlalchemy_engine(f"sqlite:///{self.path}")
        with engine.connect() as connection:
            found = list(connection.scalars(select(TABLE.c.n).order_by(TABLE.c.n)))
        engine.dispose()
        return found

    def _count(self, _connection: Connection) -> None:
        self.commits += 1


def _add(connection: Connection, number: int) -> None:
    connection.execute(insert(TABLE), {"n": number})


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "test.db")
    yield bench
    await bench.writer.close()
    bench.engine.dispose()


async def hold(bench: Bench) -> threading.Event:
    """Keep the thread busy until the event is set, so that work piles up behind it."""
    busy, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(_connection: Connection) -> None:
        loop.call_soon_threadsafe(busy.set)
        go_on.wait(10)

    bench.writer.submit(work)
    await busy.wait()
    return go_on


async def test_a_result_means_committed(bench: Bench) -> None:
    await bench.add(1)
    assert bench.stored() == [1]


async def test_work_that_piled_up_shares_a_commit_and_keeps_its_order(bench: Bench) -> None:
    go_on = await hold(bench)
    reads = [bench.writer.submit(lambda c: list(c.scalars(select(TABLE.c.n))))]
    for number in range(50):
        bench.add(number)
        reads.append(bench.writer.submit(lambda c: list(c.scalars(select(TABLE.c.n)))))
    go_on.set()
    assert await asyncio.gather(*reads) == [list(range(count)) for count in range(51)]
    assert bench.commits <= 2


async def test_one_mistake_harms_nobody_else(bench: Bench) -> None:
    await bench.add(1)
    go_on = await hold(bench)
    results = [bench.add(number) for number in (0, 1, 2)]
    go_on.set()
    outcome = await asyncio.gather(*results, return_exceptions=True)
    assert [type(result) for result in outcome] == [type(None), HostError, type(None)]
    assert bench.stored() == [0, 1, 2]


async def test_an_error_of_the_work_itself_reaches_who_asked(bench: Bench) -> None:
    def broken(_connection: Connection) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await bench.writer.submit(broken)
    await bench.add(1)


async def test_a_full_disk_is_told_as_such(bench: Bench) -> None:
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        for number in range(100_000):
            _add(connection, number)

    with pytest.raises(StorageFull, match="free some space"):
        await bench.writer.submit(fill)


async def test_a_cancelled_wait_does_not_stop_the_work(bench: Bench) -> None:
    go_on = await hold(bench)
    waiting = asyncio.ensure_future(bench.add(1))
    waiting.cancel()
    go_on.set()
    await bench.add(2)
    assert bench.stored() == [1, 2]


async def test_closing_finishes_what_was_handed_over(bench: Bench) -> None:
    go_on = await hold(bench)
    for number in range(600):
        bench.add(number)
    asyncio.get_running_loop().call_later(0.01, go_on.set)
    await bench.writer.close()
    assert bench.stored() == list(range(600))


async def test_a_closed_writer_takes_nothing(bench: Bench) -> None:
    await bench.writer.close()
    await bench.writer.close()
    with pytest.raises(Unavailable):
        bench.add(1)


async def test_the_database_is_for_its_owner_only(bench: Bench) -> None:
    await bench.add(1)
    for path in bench.path.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
