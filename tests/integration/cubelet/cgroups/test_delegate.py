"""Handing controllers down where processes stand in the way, as in a container; on a real v2 cgroup."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.cubelet.cgroups import delegate
from cube.cubelet.cgroups.detect import Hierarchy

pytestmark = pytest.mark.root


@pytest.fixture
def inhabitant(hugetlb_base: Hierarchy) -> Iterator[int]:
    """A process in the topmost cgroup."""
    with subprocess.Popen(["sleep", "60"]) as child:
        (hugetlb_base.base / "cgroup.procs").write_text(str(child.pid))
        yield child.pid
        child.kill()


def processes(base: Path) -> list[int]:
    return [int(line) for line in (base / "cgroup.procs").read_text().split()]


def test_processes_move_aside_and_back(hugetlb_base: Hierarchy, inhabitant: int) -> None:
    base = hugetlb_base.base
    delegate.enable(base, ["hugetlb"], "leaf")
    assert (base / "cgroup.subtree_control").read_text().split() == ["hugetlb"]
    assert processes(base) == []
    assert processes(base / "leaf") == [inhabitant]
    delegate.enable(base, ["hugetlb"], "leaf")
    delegate.restore(base, ["hugetlb"], "leaf")
    assert (base / "cgroup.subtree_control").read_text().split() == []
    assert processes(base) == [inhabitant]
    assert not (base / "leaf").exists()


def test_nothing_moves_when_nothing_stands_in_the_way(hugetlb_base: Hierarchy) -> None:
    delegate.enable(hugetlb_base.base, ["hugetlb"], "leaf")
    assert not (hugetlb_base.base / "leaf").exists()
    delegate.restore(hugetlb_base.base, ["hugetlb"], "leaf")
    assert (hugetlb_base.base / "cgroup.subtree_control").read_text().split() == ["hugetlb"]


def test_restore_leaves_what_others_need(hugetlb_base: Hierarchy, inhabitant: int) -> None:
    base = hugetlb_base.base
    delegate.enable(base, ["hugetlb"], "leaf")
    other = base / "other"
    other.mkdir()
    (other / "cgroup.subtree_control").write_text("+hugetlb")
    delegate.restore(base, ["hugetlb"], "leaf")
    assert processes(base / "leaf") == [inhabitant]
    assert (base / "cgroup.subtree_control").read_text().split() == ["hugetlb"]
