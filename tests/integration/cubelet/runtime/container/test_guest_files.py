"""Files of a real sandbox: every operation, as a user and as root, and what a hostile sandbox can put in its way."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from cube.envd.guest import FileType
from cube.model import errors
from cube.model.errors import Conflict, CubeError, InvalidInput, NotFound
from support.inside_sandbox import Inside

pytestmark = pytest.mark.root

HOME = "/home/user"


class TestOpen:
    async def test_a_written_file_can_be_read(self, box: Inside) -> None:
        await box.write("file", b"content")
        assert await box.read(f"{HOME}/file") == b"content"
        assert await box.read("~/file", "user") == b"content"
        assert await box.run("cat file") == "content"

    async def test_it_belongs_to_the_user_and_so_do_its_new_parents(self, box: Inside) -> None:
        opened = await box.guest.open_write("a/b/file", "user")
        opened.file.close()
        assert (opened.entry.path, opened.entry.owner, opened.entry.size) == (f"{HOME}/a/b/file", "user", 0)
        assert await box.run("stat -c %U:%G:%a a a/b a/b/file") == "user:user:755\nuser:user:755\nuser:user:644"

    async def test_mode_of_a_new_file_and_owner_of_an_old_one(self, box: Inside) -> None:
        await box.write("script", b"#!/bin/sh\necho ran\n", mode=0o777)
        assert await box.run("./script; stat -c %a script") == "ran\n755"
        await box.write(f"{HOME}/script", b"x", "root")
        assert await box.run(f"stat -c %U:%s:%a {HOME}/script", "root") == "root:1:755"

    async def test_a_file_of_somebody_else_that_may_be_written_keeps_its_owner(self, box: Inside) -> None:
        await box.run("echo old > /tmp/shared; chmod 666 /tmp/shared; chmod 777 /tmp", "root")
        await box.write("/tmp/shared", b"new")
        assert await box.run("stat -c %U /tmp/shared; cat /tmp/shared") == "root\nnew"

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/etc", InvalidInput),
            ("/dev/null", InvalidInput),
            ("fifo", InvalidInput),
            ("loop", InvalidInput),
            ("missing", NotFound),
            ("/etc/passwd/x", InvalidInput),
            ("/root/secret", errors.PermissionDenied),
            ("x" * 300, InvalidInput),
            ("x/" * 3000, InvalidInput),
        ],
    )
    async def test_what_cannot_be_read(self, box: Inside, path: str, expected: type[CubeError]) -> None:
        await box.run("chmod 700 /root; echo x > /root/secret", "root")
        await box.run("mkfifo fifo; ln -s loop loop")
        with pytest.raises(expected) as caught:
            await asyncio.wait_for(box.guest.open_read(path, "user"), 5)
        assert type(caught.value) is expected

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/etc", InvalidInput),
            ("fifo", InvalidInput),
            ("/dev/null", InvalidInput),
            ("/etc/passwd", errors.PermissionDenied),
            ("/etc/passwd/x", InvalidInput),
            ("/new/file", errors.PermissionDenied),
            ("/proc/new", NotFound),
        ],
    )
    async def test_what_cannot_be_written(self, box: Inside, path: str, expected: type[CubeError]) -> None:
        await box.run("mkfifo fifo")
        with pytest.raises(expected) as caught:
            await asyncio.wait_for(box.guest.open_write(path, "user"), 5)
        assert type(caught.value) is expected

    async def test_unknown_users(self, box: Inside) -> None:
        with pytest.raises(errors.Unauthenticated, match="invalid username: 'nobody-at-all'"):
            await box.guest.open_read("/etc/passwd", "nobody-at-all")


class TestStat:
    async def test_a_file(self, box: Inside) -> None:
        await box.run("echo hello > file; chmod 640 file; touch -d @12.000000345 file; chgrp extra file")
        found = await box.guest.stat("file", "user")
        assert (found.path, found.name, found.type, found.size) == (f"{HOME}/file", "file", FileType.FILE, 6)
        assert (found.mode, found.link_mode) == (stat.S_IFREG | 0o640, stat.S_IFREG | 0o640)
        assert (found.mtime_ns, found.uid, found.gid) == (12_000_000_345, 1000, 2000)
        assert (found.owner, found.group, found.target, found.metadata) == ("user", "extra", "", {})

    async def test_ids_without_a_name(self, box: Inside) -> None:
        await box.run("touch /tmp/x; chown 4711:4712 /tmp/x", "root")
        found = await box.guest.stat("/tmp/x", "user")
        assert (found.owner, found.group) == ("4711", "4712")

    async def test_a_link_tells_of_its_target(self, box: Inside) -> None:
        await box.run("mkdir -p d; echo hello > d/file; ln -s d link; ln -s link/file other; ln -s nowhere dangling")
        found = await box.guest.stat("other", "user")
        assert (found.path, found.type, found.size) == (f"{HOME}/other", FileType.FILE, 6)
        assert (stat.S_ISREG(found.mode), stat.S_ISLNK(found.link_mode)) == (True, True)
        assert found.target == f"{HOME}/d/file"
        assert (await box.guest.stat("link", "user")).type is FileType.DIRECTORY
        dangling = await box.guest.stat("dangling", "user")
        assert (dangling.type, stat.S_ISLNK(dangling.mode), dangling.target) == (FileType.UNSPECIFIED, True, "nowhere")

    async def test_attributes(self, box: Inside) -> None:
        await box.write("file", b"")
        opened = await box.guest.open_read("file", "user")
        await opened.file.set_attributes({"user.e2b.purpose": "test", "user.e2b.empty": "", "user.other": "x"})
        opened.file.close()
        assert (await box.guest.stat("file", "user")).metadata == {"purpose": "test", "empty": ""}

    @pytest.mark.parametrize("path", ["", "~", "/", "/..", "//proc/../", ".", "~/./"])
    async def test_paths_are_made_absolute_and_clean(self, box: Inside, path: str) -> None:
        expected = "/" if path.startswith("/") else HOME
        assert (await box.guest.stat(path, "user")).path == expected

    async def test_a_tilde_in_a_name_is_just_that(self, box: Inside) -> None:
        await box.write("~file", b"")
        assert (await box.guest.stat("~file", "user")).path == f"{HOME}/~file"


class TestList:
    async def test_walk_order_and_depth(self, box: Inside) -> None:
        await box.run("mkdir -p b/c/d a; touch b/c/d/e b/x b.txt a/z a0; ln -s b link")
        listed = {}
        for depth in (0, 1, 2, 99, 2**40):
            found = await box.guest.list_dir(HOME, "user", depth)
            listed[depth] = [entry.path.removeprefix(HOME + "/") for entry in found]
        assert listed[0] == listed[1] == ["a", "a0", "b", "b.txt", "link"]
        assert listed[2] == ["a", "a/z", "a0", "b", "b/c", "b/x", "b.txt", "link"]
        assert listed[99] == ["a", "a/z", "a0", "b", "b/c", "b/c/d", "b/c/d/e", "b/x", "b.txt", "link"]
        assert listed[2**40] == listed[99]

    async def test_through_a_link_the_path_stays_as_asked(self, box: Inside) -> None:
        await box.run("mkdir -p real/sub; touch real/file; ln -s real link; ln -s .. real/up")
        found = await box.guest.list_dir("link/", "user", 5)
        assert [entry.path for entry in found] == [f"{HOME}/link/{name}" for name in ("file", "sub", "up")]

    async def test_empty_root_and_wrong(self, box: Inside) -> None:
        assert await box.guest.list_dir("", "user", 1) == []
        assert "/etc" in [entry.path for entry in await box.guest.list_dir("/", "user", 1)]
        with pytest.raises(NotFound):
            await box.guest.list_dir("missing", "user", 1)
        with pytest.raises(InvalidInput):
            await box.guest.list_dir("/etc/passwd", "user", 1)

    async def test_many_entries_come_in_pieces(self, box: Inside) -> None:
        await box.run("mkdir /other/many; cd /other/many; touch $(seq -f %05g 3000)")
        found = await box.guest.list_dir("/other/many", "user", 1)
        assert [entry.name for entry in found] == [f"{number:05}" for number in range(1, 3001)]

    async def test_names_of_any_bytes(self, box: Inside) -> None:
        await box.run(r"touch $'\xff' $'new\nline' 'ü'")
        names = {entry.name for entry in await box.guest.list_dir(HOME, "user", 1)}
        assert names == {"\\xff", "new\nline", "ü"}

    async def test_what_may_not_be_read_is_listed_and_left_out(self, box: Inside) -> None:
        await box.run("mkdir -p /tmp/d/secret /tmp/d/z; touch /tmp/d/secret/x; chmod 700 /tmp/d/secret", "root")
        found = await box.guest.list_dir("/tmp/d", "user", 5)
        assert [entry.name for entry in found] == ["secret", "z"]
        with pytest.raises(errors.PermissionDenied):
            await box.guest.list_dir("/tmp/d/secret", "user", 1)

    async def test_as_deep_as_a_path_can_be(self, box: Inside) -> None:
        await box.run("""perl -e '$d = "d" x 99; for (1..99) { mkdir $d; chdir $d }'""")
        found = await box.guest.list_dir(HOME, "user", 5000)
        await box.guest.remove("d" * 99, "user")  # deeper than pytest can remove
        assert len(found) == (4095 - len(HOME)) // 100


class TestMakeAndMove:
    async def test_directories_with_parents(self, box: Inside) -> None:
        made = await box.guest.make_dir("a/b/c", "user")
        assert (made.path, made.type, made.owner) == (f"{HOME}/a/b/c", FileType.DIRECTORY, "user")
        assert await box.run("stat -c %a:%U a a/b/c") == "755:user\n755:user"
        with pytest.raises(Conflict):
            await box.guest.make_dir("a/b/c", "user")

    async def test_not_over_a_file(self, box: Inside) -> None:
        await box.write("file", b"")
        for path in ("file", "file/below"):
            with pytest.raises(InvalidInput):
                await box.guest.make_dir(path, "user")
        with pytest.raises(errors.PermissionDenied):
            await box.guest.make_dir("/etc/x", "user")

    async def test_moving(self, box: Inside) -> None:
        await box.write("a", b"1")
        assert (await box.guest.move("a", "new/place/b", "user")).path == f"{HOME}/new/place/b"
        await box.write("c", b"2")
        await box.guest.move("c", "new/place/b", "user")
        assert await box.read("new/place/b") == b"2"
        with pytest.raises(NotFound):
            await box.guest.move("a", "x", "user")
        with pytest.raises(InvalidInput):
            await box.guest.move("new", "new/place/inside", "user")

    async def test_a_dangling_link_moves_as_a_link(self, box: Inside) -> None:
        await box.run("ln -s nowhere link")
        await box.guest.move("link", "moved", "user")
        assert await box.run("readlink moved") == "nowhere"


class TestRemove:
    async def test_files_trees_links_and_what_is_missing(self, box: Inside) -> None:
        await box.run("mkdir -p t/a/b; touch t/a/b/c t/f keep; mkfifo t/p; ln -s ../keep t/l; ln -s t link")
        for path in ("link", "t", "missing", "missing/too", "t"):
            await box.guest.remove(path, "user")
        assert await box.run("ls") == "keep"

    async def test_links_to_directories_are_not_followed(self, box: Inside) -> None:
        await box.run("mkdir -p precious t; touch precious/file; ln -s $PWD/precious t/link")
        await box.guest.remove("t", "user")
        assert await box.run("ls precious") == "file"

    async def test_deeper_than_descriptors_and_paths_reach(self, box: Inside) -> None:
        await box.run("""cd /other; perl -e 'for (1..3000) { mkdir "t"; chdir "t"; open(F, ">f") }'""")
        await box.guest.remove("/other/t", "user")
        assert await box.run("ls /other") == ""

    async def test_wide(self, box: Inside) -> None:
        await box.run("mkdir /other/t; cd /other/t; mkdir $(seq 1000); touch {1..1000}/f")
        await box.guest.remove("/other/t", "user")
        assert await box.run("ls /other") == ""

    @pytest.mark.parametrize("path", ["/", "//", "/home/..", "/.", "~/../.."])
    async def test_not_the_root(self, box: Inside, path: str) -> None:
        with pytest.raises(InvalidInput):
            await box.guest.remove(path, "root")
        assert await box.run("ls -d /etc") == "/etc"

    async def test_not_what_belongs_to_others(self, box: Inside) -> None:
        await box.run("mkdir -p /tmp/d/e; touch /tmp/d/f", "root")
        with pytest.raises(errors.PermissionDenied):
            await box.guest.remove("/tmp/d", "user")
        with pytest.raises(Conflict):
            await box.guest.remove("/other", "root")
        assert await box.run("find /tmp/d | sort") == "/tmp/d\n/tmp/d/e\n/tmp/d/f"

    async def test_a_tree_that_changes_under_it(self, box: Inside) -> None:
        """Root removes a directory of a user who keeps exchanging a part of it for a link to what root may remove."""
        await box.run("mkdir /precious; touch /precious/$(seq -s ' /precious/' 50)", "root")
        script = """
            echo ready
            while :; do
                mkdir -p t/a/b/c 2>/dev/null; touch t/a/b/c/f 2>/dev/null
                mv t/a/b moved 2>/dev/null && ln -s /precious t/a/b 2>/dev/null; rm -rf moved
            done"""
        process = await box.spawn("/bin/bash", "-c", script)
        assert process.stdout is not None
        assert await asyncio.to_thread(os.read, process.stdout, 10) == b"ready\n"
        for _ in range(100):
            try:
                await box.guest.remove(f"{HOME}/t", "root")
            except (Conflict, NotFound, InvalidInput):
                continue
        await process.signal(9)
        await box.ended(process)
        assert await box.run("ls /precious | wc -l", "root") == "50"

    async def test_two_at_once(self, box: Inside) -> None:
        await box.run("mkdir /other/t; cd /other/t; mkdir -p $(seq -f %g/x 200); touch {1..200}/f")
        await asyncio.gather(*(box.guest.remove("/other/t", "user") for _ in range(4)))
        assert await box.run("ls /other") == ""
