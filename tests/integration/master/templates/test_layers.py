"""Layers of images, good and hostile, applied to a real tree. Nothing outside of it may ever change."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.master.templates.layers import LayerWriter, Limits
from cube.master.templates.tar import TarReader
from cube.master.templates.tree import Tree
from cube.model.errors import InvalidInput
from support.oci_images import Entry, device, directory, fifo, file, hard_link, layer, symlink

pytestmark = pytest.mark.root

GO_ON = threading.Event()


def _identity(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the tree, which must stay as it is."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "precious").write_text("untouched")
    before = {entry: _identity(entry) for entry in [path, path / "precious"]}
    yield path
    assert {entry: _identity(entry) for entry in [path, *path.iterdir()]} == before
    assert (path / "precious").read_text() == "untouched"


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def apply(root: Path, *layers: list[Entry], limits: Limits | None = None) -> LayerWriter:
    with Tree(root) as tree:
        writer = LayerWriter(tree, limits or Limits())
        for entries in layers:
            writer.apply(TarReader(io.BytesIO(layer(*entries))), GO_ON)
    return writer


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_files_directories_and_links_with_their_attributes(root: Path) -> None:
    attributes = {"SCHILY.xattr.user.note": "hello"}
    apply(
        root,
        [
            directory("srv", mode=0o2750, uid=33, gid=44),
            file("srv/tool", b"#!", mode=0o4755, uid=33, mtime=1_500_000_000, pax_headers=attributes),
            symlink("srv/link", "/etc/shadow"),
            hard_link("srv/same", "srv/tool"),
            file("made/on/the/way", b"x"),
        ],
    )
    tool, link = (root / "srv/tool").stat(), (root / "srv/link").lstat()
    assert ((root / "srv").stat().st_mode, (root / "srv").stat().st_gid) == (stat.S_IFDIR | 0o2750, 44)
    assert (tool.st_mode, tool.st_uid, int(tool.st_mtime), tool.st_nlink) == (
        stat.S_IFREG | 0o4755,
        33,
        1_500_000_000,
        2,
    )
    assert os.getxattr(root / "srv/tool", "user.note") == b"hello"
    assert (os.readlink(root / "srv/link"), stat.S_ISLNK(link.st_mode)) == ("/etc/shadow", True)
    assert (root / "made/on/the/way").read_text() == "x"


def test_members_below_a_link_to_a_directory_follow_it_inside(root: Path) -> None:
    apply(root, [directory("inner/lib"), symlink("lib", "/inner/lib")], [file("lib/stray", b"x")])
    assert (root / "inner/lib/stray").read_text() == "x"
    assert (root / "lib").is_symlink()


def test_later_layers_replace_and_remove(root: Path) -> None:
    apply(
        root,
        [
            file("a", b"1"),
            file("gone"),
            directory("d"),
            file("d/x"),
            directory("full"),
            file("full/f"),
            symlink("s", "d"),
        ],
        [file("a", b"2"), file(".wh.gone"), file("d", b"now a file"), file("full/.wh.f"), directory("s")],
    )
    assert (root / "a").read_text() == "2"
    assert names(root) == {"a", "d", "full", "s"}
    assert (root / "s").is_dir()
    assert not (root / "s").is_symlink()


@pytest.mark.parametrize("marker_first", [True, False])
def test_an_opaque_directory_keeps_only_what_its_own_layer_made(root: Path, marker_first: bool) -> None:
    marker = [file("d/.wh..wh..opq")]
    own = [file("d/new"), file("d/sub/deep/new"), directory("d/kept")]
    apply(
        root,
        [
            file("d/old"),
            file("d/sub/old"),
            file("d/sub/deep/old"),
            directory("d/gone/deep"),
            file("d/kept/old"),
            file("e"),
        ],
        [directory("d"), *(marker + own if marker_first else own + marker)],
    )
    assert names(root) == {"d", "d/new", "d/sub", "d/sub/deep", "d/sub/deep/new", "d/kept", "e"}


def test_an_opaque_directory_reached_by_two_names_keeps_what_was_made(root: Path) -> None:
    apply(
        root,
        [directory("usr/lib"), symlink("lib", "usr/lib"), file("usr/lib/old")],
        [file("lib/new"), file("usr/lib/.wh..wh..opq"), file("lib/.wh..wh..opq")],
    )
    assert names(root) == {"usr", "usr/lib", "usr/lib/new", "lib"}


def test_devices_and_pipes_are_left_out(root: Path) -> None:
    writer = apply(root, [directory("dev"), device("dev/mem"), fifo("dev/pipe")])
    assert names(root) == {"dev"}
    assert writer.skipped == {"character_device": 1, "fifo": 1}


@pytest.mark.parametrize(
    "name",
    ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.redirect", "security.selinux", "system.x"],
)
def test_attributes_that_steer_the_kernel_are_left_out(root: Path, name: str) -> None:
    writer = apply(root, [file("f", pax_headers={f"SCHILY.xattr.{name}": "y"})])
    assert os.listxattr(root / "f") == []
    assert writer.skipped == {"extended attribute": 1}


def test_owners_that_no_sandbox_has_become_nobody(root: Path) -> None:
    writer = apply(root, [file("f", pax_headers={"uid": "70000", "gid": "4294967295"})])
    assert ((root / "f").stat().st_uid, (root / "f").stat().st_gid) == (65534, 65534)
    assert writer.skipped["owner out of range"] == 2


@pytest.mark.parametrize("name", ["../outside/new", "a/../../outside/new", "..", "/outside/new", "/etc/x", "a/../b"])
def test_names_that_lead_out_are_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="outside of itself"):
        apply(root, [file(name, b"x")])
    assert names(root) == set()


@pytest.mark.parametrize("target", ["/", "../outside", "../../../../../..", "/proc/self/root", "/proc/1/cwd"])
def test_writing_through_a_link_stays_inside(root: Path, outside: Path, target: str) -> None:
    absolute = str(outside) if target == "/" else target
    with contextlib.suppress(InvalidInput):  # a link that leads nowhere inside is refused
        apply(root, [symlink("door", absolute), file("door/precious", b"stolen"), file("door/cube-stray", b"x")])
    assert (root / "door").is_symlink()
    assert not Path("/cube-stray").exists()


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(root: Path, outside: Path) -> None:
    apply(root, [symlink("f", str(outside / "precious"))], [file("f", b"new")])
    assert (root / "f").read_bytes() == b"new"
    assert not (root / "f").is_symlink()


def test_a_directory_swapped_for_a_link_is_not_written_through(root: Path, outside: Path) -> None:
    with pytest.raises(InvalidInput):
        apply(root, [directory("d"), file("d/a"), symlink("d", str(outside)), file("d/precious", b"stolen")])


@pytest.mark.parametrize("target", ["../outside/precious", "/etc/shadow", "", "d", "missing", ".."])
def test_hard_links_to_what_is_not_a_file_inside_are_refused(root: Path, target: str) -> None:
    with pytest.raises(InvalidInput):
        apply(root, [directory("d"), hard_link("mine", target)])
    assert not (root / "mine").exists()


def test_a_hard_link_through_a_link_stays_inside(root: Path, outside: Path) -> None:
    with pytest.raises(InvalidInput):
        apply(root, [symlink("door", str(outside)), hard_link("mine", "door/precious")])


def test_a_hard_link_to_a_symbolic_link_is_one_to_the_link(root: Path, outside: Path) -> None:
    apply(root, [symlink("door", str(outside / "precious")), hard_link("mine", "door")])
    assert (root / "mine").is_symlink()
    assert (outside / "precious").stat().st_nlink == 1


def test_a_hard_link_to_itself_keeps_the_file(root: Path) -> None:
    apply(root, [file("f", b"x"), hard_link("f", "f")])
    assert (root / "f").read_text() == "x"


@pytest.mark.parametrize("name", [".wh...", "a/.wh...", ".wh..", ".wh."])
def test_whiteouts_of_the_directory_itself_or_above_do_no_harm(root: Path, outside: Path, name: str) -> None:
    with contextlib.suppress(InvalidInput):
        apply(root, [directory("a"), file("a/x")], [file(name)])
    assert root.is_dir()
    assert outside.is_dir()


def test_a_whiteout_through_a_link_stays_inside(root: Path, outside: Path) -> None:
    apply(root, [symlink("door", str(outside))], [file("door/.wh.precious"), file("door/.wh..wh..opq")])
    assert (outside / "precious").exists()


def test_a_whiteout_of_a_link_removes_the_link_alone(root: Path, outside: Path) -> None:
    apply(root, [symlink("door", str(outside))], [file(".wh.door")])
    assert names(root) == set()


def test_a_root_that_is_no_directory_is_refused(root: Path) -> None:
    with pytest.raises(InvalidInput):
        apply(root, [symlink("./", "/etc")])


def test_the_last_of_equal_names_counts(root: Path) -> None:
    apply(root, [file("f", b"1"), file("f", b"2"), directory("f"), file("f/x"), file("f", b"3")])
    assert (root / "f").read_text() == "3"


def test_too_many_members(root: Path) -> None:
    with pytest.raises(InvalidInput, match="too many"):
        apply(root, [file(str(number)) for number in range(11)], limits=Limits(members=10))


def test_too_much_content_is_refused_before_it_is_written(root: Path) -> None:
    with pytest.raises(InvalidInput, match="too large"):
        apply(root, [file("small"), file("big", b"x" * 2000)], limits=Limits(content_bytes=1000))
    assert names(root) == {"small"}


def test_directories_deeper_than_allowed_by_way_of_links(root: Path) -> None:
    deep = "/".join(["d"] * 150)
    with pytest.raises(InvalidInput, match="deep"):
        apply(root, [file(f"{deep}/x"), symlink("short", deep), file(f"short/{deep}/x")])


@pytest.mark.parametrize("name", ["x" * 256, "/".join(["d"] * 300), "/".join(["x" * 200] * 30)])
def test_names_longer_than_the_kernel_takes(root: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="too long"):
        apply(root, [file(name)])


def test_links_in_a_circle(root: Path) -> None:
    with pytest.raises(InvalidInput):
        apply(root, [symlink("a", "b"), symlink("b", "a"), file("a/x")])


def test_a_file_where_a_directory_is_needed(root: Path) -> None:
    with pytest.raises(InvalidInput):
        apply(root, [file("f"), file("f/x")])


def test_stopping(root: Path) -> None:
    stop = threading.Event()
    stop.set()
    with Tree(root) as tree:
        LayerWriter(tree).apply(TarReader(io.BytesIO(layer(file("f")))), stop)
    assert names(root) == set()
