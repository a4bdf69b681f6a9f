"""The files of a volume as clients see them, with what hostile sandboxes leave in volumes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cube.cubelet.volumes import removal, tree
from cube.cubelet.volumes.content import VolumeContent
from cube.cubelet.volumes.tree import INCOMING, REMOVED
from cube.model.errors import Conflict, InvalidInput, NotFound, StorageFull, Unavailable, VolumeNotFound
from cube.model.volumes import Attributes, EntryType
from support.fake_volumes import ID_BASE

pytestmark = pytest.mark.root

DEFAULT = Attributes()


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def write(
    content: VolumeContent, path: str, data: bytes = b"x", wish: Attributes = DEFAULT, **more: bool
) -> None:
    await content.write(path, pieces(data), wish, **more)


async def read(content: VolumeContent, path: str) -> bytes:
    async with content.reading(path) as (fd, entry):
        return os.pread(fd, entry.size, 0)


def owner(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid - ID_BASE, found.st_gid - ID_BASE, stat.S_IMODE(found.st_mode)


async def test_a_file_is_written_and_read(content: VolumeContent, files: Path, directory: Path) -> None:
    big = os.urandom(3 << 20) + b"end"
    entry = await content.write("/big", pieces(big[:5], big[5:]), DEFAULT)
    assert (entry.name, entry.type, entry.path, entry.size) == ("big", EntryType.FILE, "/big", len(big))
    assert await read(content, "big") == big
    assert owner(files / "big") == (1000, 1000, 0o666)
    assert not os.listdir(directory / INCOMING)


async def test_owner_and_mode_are_those_of_sandboxes(content: VolumeContent, files: Path) -> None:
    await write(content, "/mine", wish=Attributes(uid=0, gid=7, mode=0o600))
    assert owner(files / "mine") == (0, 7, 0o600)
    entry = await content.update("/mine", Attributes(uid=5))
    assert (entry.uid, entry.gid, entry.mode) == (5, 7, 0o600)
    await content.update("/mine", Attributes(uid=6, gid=6, mode=0o4755))
    assert owner(files / "mine") == (6, 6, 0o4755)
    (files / "roots").touch()
    assert (await content.stat("/roots")).uid == 65534


async def test_what_is_there_is_replaced_only_by_force(content: VolumeContent, files: Path) -> None:
    await write(content, "/a", b"old")
    with pytest.raises(Conflict, match="exists"):
        await write(content, "/a", b"new")
    assert await read(content, "/a") == b"old"
    await write(content, "/a", b"new", force=True)
    assert await read(content, "/a") == b"new"
    (files / "link").symlink_to("a")
    await write(content, "/link", b"own", force=True)
    assert (await read(content, "/a"), await read(content, "/link")) == (b"new", b"own")


async def test_what_comes_into_being_during_an_upload_is_not_overwritten(content: VolumeContent, files: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"late"
        (files / "a").write_text("early")

    with pytest.raises(Conflict):
        await content.write("/a", slow(), DEFAULT)
    assert (files / "a").read_text() == "early"


async def test_a_directory_is_not_a_file(content: VolumeContent, directory: Path) -> None:
    await content.make_dir("/d", DEFAULT, parents=False)
    for path in ("/d", "/d/", "/d/."):
        with pytest.raises(Conflict, match="is a directory"):
            await write(content, path, force=True)
        with pytest.raises(NotFound):
            await read(content, path)
    with pytest.raises(InvalidInput, match="path"):
        await write(content, "/", force=True)
    assert not os.listdir(directory / INCOMING)


async def test_directories_are_made(content: VolumeContent, files: Path) -> None:
    entry = await content.make_dir("/d", Attributes(1, 2, 0o700), parents=False)
    assert (entry.type, entry.uid, entry.gid, entry.mode) == (EntryType.DIRECTORY, 1, 2, 0o700)
    with pytest.raises(Conflict):
        await content.make_dir("/d", DEFAULT, parents=False)
    with pytest.raises(NotFound):
        await content.make_dir("/x/y", DEFAULT, parents=False)
    assert (await content.make_dir("/d", Attributes(9), parents=True)).uid == 1
    await content.make_dir("/x/y/z", Attributes(3, 3, 0o711), parents=True)
    assert (owner(files / "x"), owner(files / "x/y/z")) == ((3, 3, 0o777), (3, 3, 0o711))
    await write(content, "/p/q/file", force=True)
    assert owner(files / "p/q") == (1000, 1000, 0o777)
    (files / "file").touch()
    with pytest.raises(Conflict):
        await content.make_dir("/file", DEFAULT, parents=True)
    (files / "short").symlink_to("x/y")
    await content.make_dir("/short/more/still", DEFAULT, parents=True)
    assert (files / "x/y/more/still").is_dir()


async def test_a_way_of_thousands_of_directories_is_made_and_removed(content: VolumeContent, files: Path) -> None:
    deep = "/d" * 2000
    assert (await content.make_dir(deep, DEFAULT, parents=True)).path == deep
    await content.remove("/d")
    assert not os.listdir(files)


async def test_a_listing_goes_as_deep_as_is_asked(content: VolumeContent, files: Path) -> None:
    (files / "b/c/d").mkdir(parents=True)
    (files / "a").touch()
    (files / "b/link").symlink_to("/etc")
    found = {depth: [entry.path for entry in await content.entries("/", depth)] for depth in (1, 2, 10)}
    assert found[1] == ["/a", "/b"]
    assert found[2] == ["/a", "/b", "/b/c", "/b/link"]
    assert found[10] == ["/a", "/b", "/b/c", "/b/c/d", "/b/link"]
    link = (await content.entries("/b", 1))[1]
    assert (link.type, link.target) == (EntryType.SYMLINK, "/etc")
    for depth in (0, 11, -1):
        with pytest.raises(InvalidInput, match="depth"):
            await content.entries("/", depth)
    for path in ("/a", "/none"):
        with pytest.raises(NotFound):
            await content.entries(path, 1)


async def test_no_listing_fills_the_memory(
    content: VolumeContent, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_MOST_ENTRIES", 10)
    for number in range(5):
        (files / f"{number}").mkdir()
        (files / f"{number}/inside").touch()
    assert len(await content.entries("/", 2)) == 10
    (files / "more").touch()
    with pytest.raises(InvalidInput, match="no more than 10"):
        await content.entries("/", 2)


async def test_removal(content: VolumeContent, files: Path, directory: Path) -> None:
    (files / "t/a/b").mkdir(parents=True)
    (files / "t/a/b/file").touch()
    (files / "t/out").symlink_to("/")
    (files / "link").symlink_to("t")
    await content.remove("/link")
    assert (files / "t/a/b/file").exists()
    await content.remove("/t/")
    assert not os.listdir(files)
    assert not os.listdir(directory / REMOVED)
    with pytest.raises(NotFound):
        await content.remove("/t")
    for path in ("/", "", "/.", "/x/.."):
        with pytest.raises(InvalidInput, match="root"):
            await content.remove(path)


async def test_a_tree_that_grows_while_it_is_removed_is_left_for_later(
    content: VolumeContent, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "t").mkdir()
    held, stop = os.open(files / "t", os.O_RDONLY), threading.Event()

    def grow() -> None:
        number = 0
        while not stop.is_set():
            try:
                os.mkdir(f"{number}", dir_fd=held)
                os.close(os.open(f"{number}/f", os.O_CREAT, dir_fd=held))
            except FileNotFoundError:
                return
            number += 1

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(removal, "_PATIENCE", 0.2)
            await content.remove("/t")
        assert not os.listdir(files)
    finally:
        stop.set()
        thread.join()
        os.close(held)
    await content.clear()
    assert not os.listdir(files.parent / REMOVED)


# -- what sandboxes leave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "/etc", "../..", "../../outside", "/proc/self/root"])
async def test_no_link_leads_out(content: VolumeContent, files: Path, target: str) -> None:
    (files / "link").symlink_to(target)
    (files / "d").mkdir()
    (files / "d/up").symlink_to("../link")
    tries = [
        content.entries("/link", 1),
        content.entries("/link/etc", 1),
        content.make_dir("/link/new", DEFAULT, parents=False),
        content.make_dir("/link/new/deep", DEFAULT, parents=True),
        content.update("/link", Attributes(mode=0o777)),
        content.stat("/link/passwd"),
        content.stat("/d/up/passwd"),
        content.remove("/link/passwd"),
        write(content, "/link/new", force=True),
        write(content, "/d/up/new"),
        read(content, "/link"),
        read(content, "/link/passwd"),
    ]
    for attempt in tries:
        with pytest.raises(InvalidInput, match="leads out"):
            await attempt
    assert (await content.stat("/link")).target == target


@pytest.mark.parametrize("path", ["/../outside", "../../outside", "/d/../../outside", "/./../..//outside"])
async def test_no_path_leads_out(content: VolumeContent, path: str) -> None:
    with pytest.raises(NotFound):
        await content.stat(path)
    await write(content, path)
    assert (await content.stat("/outside")).size == 1


async def test_links_inside_are_followed(content: VolumeContent, files: Path) -> None:
    (files / "v1").mkdir()
    (files / "current").symlink_to("v1")
    await write(content, "/current/file", b"here")
    assert await read(content, "/v1/file") == b"here"
    (files / "link").symlink_to("current/file")
    assert await read(content, "/link") == b"here"
    await content.update("/link", Attributes(mode=0o600))
    assert owner(files / "v1/file")[2] == 0o600
    (files / "loop").symlink_to("loop")
    with pytest.raises(InvalidInput, match="circles"):
        await read(content, "/loop")


async def test_a_link_that_changes_all_the_time_never_leads_out(content: VolumeContent, files: Path) -> None:
    (files / "inside").mkdir()
    (files / "inside/outside").write_text("of the volume")
    stop = threading.Event()

    def swap() -> None:
        for number in range(100_000):
            if stop.is_set():
                return
            (files / "new").symlink_to("inside" if number % 2 else "../..")
            os.rename(files / "new", files / "switch")

    thread = threading.Thread(target=swap)
    thread.start()
    answers = set()
    try:
        for _ in range(500):
            with suppress(InvalidInput, NotFound):
                answers.add(await read(content, "/switch/outside"))
    finally:
        stop.set()
        thread.join()
    assert answers == {b"of the volume"}


async def test_what_is_no_file_is_not_opened(content: VolumeContent, files: Path) -> None:
    os.mkfifo(files / "pipe")
    os.mknod(files / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    for name in ("pipe", "device"):
        assert (await content.stat(name)).type is EntryType.UNKNOWN
        with pytest.raises(NotFound, match="not a file"):
            await asyncio.wait_for(read(content, name), 5)
        await write(content, name, b"now a file", force=True)
        assert await read(content, name) == b"now a file"


async def test_a_lease_keeps_nobody_waiting(content: VolumeContent, files: Path) -> None:
    (files / "a").touch()
    with (files / "a").open("r+") as held:
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGCHLD)  # harmless, unlike the one that is sent else
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            with pytest.raises(Unavailable, match="reserved"):
                await asyncio.wait_for(read(content, "/a"), 5)
        finally:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)


async def test_odd_names_and_times(content: VolumeContent, files: Path) -> None:
    fd = os.open(files, os.O_RDONLY)
    os.close(os.open(b"\xff\xfe", os.O_CREAT, dir_fd=fd))
    os.symlink(b"\xff", b"link", dir_fd=fd)
    os.close(fd)
    os.utime(files / "link", (2**34, -(2**33)), follow_symlinks=False)
    names = {entry.name: entry for entry in await content.entries("/", 1)}
    assert names.keys() == {"��", "link"}
    assert names["link"].target == "�"
    assert datetime(1, 1, 1, tzinfo=UTC) < names["link"].mtime < names["link"].atime
    for path in ("a" * 300, "/".join(["a"] * 2500), "nul\0byte"):
        with pytest.raises(InvalidInput, match="path"):
            await content.stat(path)


# -- uploads that do not come to their end ---------------------------------------------------------------------------


async def test_nothing_stays_of_an_upload_that_is_cut_off(content: VolumeContent, files: Path, directory: Path) -> None:
    (files / "a").write_text("before")

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (3 << 20)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await content.write("/a", broken(), DEFAULT, force=True)
    with pytest.raises(ConnectionError):
        await content.write("/new", broken(), DEFAULT)
    assert (files / "a").read_text() == "before"
    assert os.listdir(files) == ["a"]
    assert not os.listdir(directory / INCOMING)


async def test_nothing_stays_of_an_upload_that_is_cancelled(
    content: VolumeContent, files: Path, directory: Path
) -> None:
    for steps in range(12):
        begun = asyncio.Event()

        async def endless(begun: asyncio.Event = begun) -> AsyncIterator[bytes]:
            while True:
                yield b"x" * (1 << 20)
                begun.set()

        task = asyncio.create_task(content.write("/new", endless(), DEFAULT))
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps % 2:
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not os.listdir(files)
        assert not os.listdir(directory / INCOMING)
    assert descriptors(directory) == []


def descriptors(directory: Path) -> list[str]:
    """What this process has open in a directory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith(str(directory)):
            found.append(target)
    return found


async def test_transfers_end_with_the_volume(content: VolumeContent, files: Path, directory: Path) -> None:
    (files / "a").touch()
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            begun.set()
            await asyncio.sleep(0)

    async def reader() -> None:
        async with content.reading("/a"):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(content.write("/new", endless(), DEFAULT)), asyncio.create_task(reader())]
    await begun.wait()
    await content.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, VolumeNotFound)
    assert descriptors(directory) == []
    with pytest.raises(VolumeNotFound):
        await write(content, "/late")


async def test_a_full_file_system_is_said_to_be_full(
    content: VolumeContent, directory: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cube.envd.files.ways.write_all", full)
    with pytest.raises(StorageFull, match="volume is full"):
        await write(content, "/a")
    assert not os.listdir(files)
    assert not os.listdir(directory / INCOMING)


def full(fd: int, data: bytes) -> None:
    raise OSError(122, "Disk quota exceeded")


async def test_leftovers_of_a_crash_are_cleared(content: VolumeContent, files: Path, directory: Path) -> None:
    (directory / INCOMING / "half").touch()
    (directory / REMOVED / "old/deep/tree").mkdir(parents=True)
    (files / "kept").touch()
    await content.clear()
    assert [os.listdir(directory / name) for name in (INCOMING, REMOVED)] == [[], []]
    assert os.listdir(files) == ["kept"]
