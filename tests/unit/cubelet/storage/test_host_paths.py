from __future__ import annotations

import os
from pathlib import Path

import pytest

from cube.cubelet.storage.host_paths import HostPaths
from cube.model.errors import InvalidInput
from support.descriptors import open_fds


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    (shared / "a/b").mkdir(parents=True)
    (tmp_path / "shared-not").mkdir()
    (tmp_path / "outside").mkdir()
    return shared


def opened(path: str, *prefixes: Path) -> str:
    """Where the descriptor leads."""
    fd = HostPaths([str(prefix) for prefix in prefixes]).open(path, field="entry[0]")
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def refused(path: str, *prefixes: Path) -> str:
    before = len(open_fds())
    with pytest.raises(InvalidInput) as caught:
        opened(path, *prefixes)
    assert len(open_fds()) == before
    assert caught.value.message.startswith("entry[0]: ")
    return caught.value.message


@pytest.mark.parametrize("below", ["", "/a", "/a/b"])
def test_the_prefix_and_what_is_below(shared: Path, below: str) -> None:
    assert opened(f"{shared}{below}", shared) == f"{shared}{below}"


def test_the_longest_prefix_counts(shared: Path) -> None:
    (shared / "a/up").symlink_to("../../a")
    assert opened(f"{shared}/a/b", shared, shared / "a") == f"{shared}/a/b"
    assert "leads out" in refused(f"{shared}/a/up", shared, shared / "a")


def test_other_directories_are_refused_by_name(shared: Path) -> None:
    for path in ("/", "/etc", str(shared.parent), f"{shared}-not", f"{shared.parent}/outside"):
        assert f"hostPath must be under one of [{shared}]" in refused(path, shared)


def test_without_prefixes_nothing_is_allowed(shared: Path) -> None:
    assert "under one of []" in refused(str(shared))


@pytest.mark.parametrize("target", ["/", "/etc", "../outside", "../../../../../etc", "/proc/self/root"])
def test_links_do_not_lead_out(shared: Path, target: str) -> None:
    (shared / "link").symlink_to(target)
    assert "leads out" in refused(f"{shared}/link", shared)


def test_links_that_stay_inside_are_followed(shared: Path) -> None:
    (shared / "link").symlink_to("a/b")
    assert opened(f"{shared}/link", shared) == f"{shared}/a/b"


def test_the_prefix_itself_may_be_a_link(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shared)
    assert opened(f"{tmp_path}/link/a", tmp_path / "link") == f"{shared}/a"


def test_what_is_no_directory(shared: Path) -> None:
    (shared / "file").touch()
    (shared / "circle").symlink_to("circle")
    assert "is not a directory" in refused(f"{shared}/file", shared)
    assert "does not exist" in refused(f"{shared}/missing", shared)
    assert "circles" in refused(f"{shared}/circle", shared)
    assert "not there on this node" in refused(f"{shared}/missing/x", shared / "missing")
