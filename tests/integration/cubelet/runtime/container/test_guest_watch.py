"""Watching directories of a real sandbox: nothing that is finished before ``read`` is missing, nothing comes twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cube.envd.guest import Watch
from cube.model import errors
from cube.model.errors import CubeError, InvalidInput, LimitExceeded, NotFound, SandboxNotRunning
from support.inside_sandbox import Inside

pytestmark = pytest.mark.root


@asynccontextmanager
async def watching(box: Inside, path: str = "w", *, recursive: bool = False) -> AsyncIterator[Watch]:
    """A new directory that is watched."""
    if path == "w":
        await box.guest.make_dir("w", "user")
    watch = await box.guest.watch(path, "user", recursive=recursive)
    try:
        yield watch
    finally:
        watch.close()
        watch.close()


async def read(watch: Watch) -> list[str]:
    return [f"{event.type.name} {event.name}" for event in await watch.read()]


class TestOneDirectory:
    async def test_an_upload_is_three_events(self, box: Inside) -> None:
        async with watching(box) as watch:
            assert await read(watch) == []
            await box.write("w/new", b"content")
            assert await read(watch) == ["CREATE new", "CHMOD new", "WRITE new"]
            assert await read(watch) == []

    async def test_every_kind(self, box: Inside) -> None:
        async with watching(box) as watch:
            await box.run("cd w; touch a; echo x > a; chmod 600 a; mv a b; rm b; mkdir d; rmdir d")
            assert await read(watch) == [
                "CREATE a",
                "CHMOD a",
                "WRITE a",
                "CHMOD a",
                "RENAME a",
                "CREATE b",
                "REMOVE b",
                "CREATE d",
                "REMOVE d",
            ]

    async def test_what_is_below_stays_below(self, box: Inside) -> None:
        async with watching(box) as watch:
            await box.run("mkdir -p w/d/e; touch w/d/f; rm -r w/d")
            assert await read(watch) == ["CREATE d", "REMOVE d"]

    async def test_its_descriptor_tells_when_there_is_something(self, box: Inside) -> None:
        async with watching(box) as watch:
            ready = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(watch.fileno(), ready.set)
            await asyncio.sleep(0)
            assert not ready.is_set()
            await box.run("touch w/x")
            await asyncio.wait_for(ready.wait(), 5)
            loop.remove_reader(watch.fileno())

    async def test_its_own_end(self, box: Inside) -> None:
        async with watching(box) as watch:
            await box.run("touch w/x; rm -r w; mkdir w; touch w/y")
            assert await read(watch) == ["CREATE x", "CHMOD x", "REMOVE x", "REMOVE ."]
            assert await read(watch) == []
        async with watching(box, "/home/user/w") as watch:
            await box.run("mv w v; touch v/z")
            assert await read(watch) == ["RENAME .", "CREATE z", "CHMOD z"]

    async def test_through_a_link(self, box: Inside) -> None:
        await box.run("mkdir real; ln -s real link")
        async with watching(box, "link") as watch:
            await box.run("touch real/x")
            assert await read(watch) == ["CREATE x", "CHMOD x"]

    @pytest.mark.parametrize(
        ("path", "expected"),
        [("missing", NotFound), ("/etc/passwd", InvalidInput), ("/root", errors.PermissionDenied)],
    )
    async def test_what_cannot_be_watched(self, box: Inside, path: str, expected: type[CubeError]) -> None:
        await box.run("chmod 700 /root", "root")
        with pytest.raises(expected):
            await box.guest.watch(path, "user", recursive=True)

    async def test_names_that_are_not_utf_8(self, box: Inside) -> None:
        async with watching(box, recursive=True) as watch:
            await box.run(r"mkdir w/$'\xff'; touch w/$'\xff'/x")
            assert await read(watch) == ["CREATE \\xff", "CREATE \\xff/x"]
            await box.run(r"echo > w/$'\xff'/x")
            assert await read(watch) == ["WRITE \\xff/x"]


class TestTree:
    async def test_directories_that_are_there(self, box: Inside) -> None:
        await box.run("mkdir -p w/a/b w/c; ln -s /etc w/link")
        async with watching(box, "~/w", recursive=True) as watch:
            await box.run("cd w; touch a/b/x; rm a/b/x; rmdir c")
            assert await read(watch) == ["CREATE a/b/x", "CHMOD a/b/x", "REMOVE a/b/x", "REMOVE c"]

    async def test_a_new_directory_and_what_is_in_it_already(self, box: Inside) -> None:
        async with watching(box, recursive=True) as watch:
            await box.run("mkdir -p w/a/b/c; touch w/a/empty; echo x > w/a/b/full")
            assert await read(watch) == [
                "CREATE a",
                "CREATE a/b",
                "CREATE a/b/c",
                "CREATE a/b/full",
                "WRITE a/b/full",
                "CREATE a/empty",
            ]
            await box.run("echo y > w/a/b/c/late; rm w/a/empty")
            assert await read(watch) == ["CREATE a/b/c/late", "WRITE a/b/c/late", "REMOVE a/empty"]

    async def test_a_directory_that_is_gone_again(self, box: Inside) -> None:
        async with watching(box, recursive=True) as watch:
            await box.run("mkdir -p w/a/b; rm -r w/a; mkdir w/a; touch w/a/x")
            assert await read(watch) == ["CREATE a", "CREATE a/x", "REMOVE a", "CREATE a"]

    async def test_moving_directories_around(self, box: Inside) -> None:
        await box.run("mkdir -p w/a/b outside/in; touch outside/in/file")
        async with watching(box, "~/w", recursive=True) as watch:
            await box.run("mv w/a w/z; touch w/z/b/x")
            assert await read(watch) == ["RENAME a", "CREATE z", "CREATE z/b/x", "CHMOD z/b/x"]
            await box.run("mv w/z outside; touch outside/z/b/y")
            assert await read(watch) == ["RENAME z"]
            await box.run("mv outside/in w; mv outside/z w/back; touch w/back/b/again")
            assert await read(watch) == [
                "CREATE in",
                "CREATE back",
                "CREATE back/b/again",
                "CHMOD back/b/again",
            ]
            await box.run("echo > w/in/file")
            assert await read(watch) == ["WRITE in/file"]

    async def test_a_storm_of_directories_loses_and_repeats_none(self, box: Inside) -> None:
        async with watching(box, recursive=True) as watch:
            storm = await box.spawn("/bin/bash", "-c", "for n in {1..100}; do mkdir -p w/$n/{a,b}; : > w/$n/a/f; done")
            found: list[str] = []
            waiting = asyncio.create_task(storm.wait())
            while not waiting.done():
                found += await read(watch)
                await asyncio.sleep(0)
            found += await read(watch)
            await box.ended(storm)
        expected = {f"CREATE {n}{rest}" for n in range(1, 101) for rest in ("", "/a", "/b", "/a/f")}
        created = [event for event in found if event.startswith("CREATE")]
        assert set(created) == expected
        assert len(created) == len(expected)

    async def test_a_cancelled_read_loses_and_repeats_nothing(self, box: Inside) -> None:
        async with watching(box, recursive=True) as watch:
            await box.run("mkdir -p w/a/b; touch w/a/b/x w/y")
            for turns in range(12):
                task = asyncio.create_task(watch.read())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(result, asyncio.CancelledError), "it was done before it was cancelled"
            assert await read(watch) == ["CREATE a", "CREATE a/b", "CREATE a/b/x", "CREATE y", "CHMOD y"]

    async def test_an_overflow_does_not_end_it(self, box: Inside) -> None:
        async with watching(box, "/other", recursive=True) as watch:
            script = """perl -e 'for (1..9000) { open(F, ">a"); unlink "a" }'; mkdir -p late/dir"""
            await box.run(script, cwd="/other")
            found = await read(watch)
            assert found[:2] == ["CREATE a", "REMOVE a"]
            assert "CREATE late" not in found
            await box.run("touch /other/late/dir/x")
            assert await read(watch) == ["CREATE late/dir/x", "CHMOD late/dir/x"]


class TestLimits:
    async def test_too_many_watches(self, box: Inside) -> None:
        watches: list[Watch] = []

        async def exhaust() -> None:
            while len(watches) < 5000:
                watches.append(await box.guest.watch("/", "user", recursive=False))

        with pytest.raises(LimitExceeded, match="watches"):
            await exhaust()
        for watch in watches:
            watch.close()
        (await box.guest.watch("/", "user", recursive=False)).close()

    async def test_the_end_of_the_sandbox(self, box: Inside) -> None:
        async with watching(box, recursive=True) as watch:
            await box.guest.close()
            with pytest.raises(SandboxNotRunning):
                await watch.read()
            assert os.fstat(watch.fileno())
