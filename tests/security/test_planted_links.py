"""A sandbox plants links wherever the host reads or writes for it later: at a start over its files, in a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cube.model.errors import CubeError
from cube.model.ids import new_sandbox_id, new_snapshot_id
from security.ground import Box, Ground

#: What the host itself looks at or makes in a sandbox, and directories above it.
_NAMES = ("hosts", "hostname", "resolv.conf", "machine-id", "passwd", "group", "localtime")


@pytest.fixture
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of the host with files of the names that the host knows; afterwards they must be as they were."""
    directory = tmp_path_factory.mktemp("canary")
    directory.chmod(0o777)
    for name in _NAMES:
        (directory / name).write_text("of the host")
        (directory / name).chmod(0o666)
    yield directory
    assert sorted(entry.name for entry in directory.iterdir()) == sorted(_NAMES)
    assert {(directory / name).read_text() for name in _NAMES} == {"of the host"}
    assert {(directory / name).stat().st_uid for name in _NAMES} == {0}


def files(canary: Path) -> str:
    """Every file is a link to one of the host's."""
    return f"cd /etc && for name in {' '.join(_NAMES)}; do ln -sfn {canary}/$name $name; done"


def directories(canary: Path) -> str:
    """/etc as a whole is one."""
    return (
        f"cp /bin/busybox /busybox 2>/dev/null; rm -rf /var/log /home/user; ln -s {canary} /var/log;"
        f" ln -s {canary} /home/user; mv /etc /etc.old; ln -s {canary} /etc"
    )


def by_descriptors(canary: Path) -> str:
    """Links that mean something else to whoever follows them."""
    return (
        f"cd /etc && for name in {' '.join(_NAMES)}; do ln -sfn /proc/1/root{canary}/$name $name; done;"
        " rm -rf /var/log; ln -s /proc/self/fd/3 /var/log; ln -sfn /proc/self/cwd /home/user/cwd"
    )


PLANTS = pytest.mark.parametrize("plant", [files, directories, by_descriptors])
Plant = Callable[[Path], str]


def look(box: Box) -> None:
    """Whoever it is that answers, it tells nothing of the host."""
    for name in _NAMES:
        answer = box.answer(box._read(f"/etc/{name}", "root"))
        assert b"of the host" not in (answer if isinstance(answer, bytes) else b"")


@PLANTS
def test_a_start_over_files_with_planted_links(ground: Ground, canary: Path, plant: Plant) -> None:
    with ground.sandbox() as box:
        box.run(plant(canary))
        ground.call(ground.runtime.pause(box.instance, memory=False))
        try:
            again = ground.call(ground.runtime.resume(box.spec, None, memory=True))
        except CubeError:  # it may not start from what it has made of itself, but nothing else may happen
            return
        look(Box(ground, again, box.spec))


@PLANTS
def test_a_snapshot_with_planted_links(ground: Ground, canary: Path, plant: Plant) -> None:
    snapshot_id, sandbox_id = new_snapshot_id(), new_sandbox_id()
    with ground.sandbox() as box:
        box.run(plant(canary))
        ground.call(ground.runtime.snapshot(box.spec, box.instance, snapshot_id, memory=False))
        try:
            spec = replace(box.spec, sandbox_id=sandbox_id, snapshot_id=snapshot_id)
            look(Box(ground, ground.call(ground.runtime.create(spec)), spec))
        except CubeError:
            pass
        finally:
            ground.call(ground.runtime.destroy(sandbox_id))
            ground.call(ground.runtime.delete_snapshot(snapshot_id))


@PLANTS
def test_a_rollback_to_planted_links(ground: Ground, canary: Path, plant: Plant) -> None:
    snapshot_id = new_snapshot_id()
    with ground.sandbox() as box:
        box.run(plant(canary))
        ground.call(ground.runtime.snapshot(box.spec, box.instance, snapshot_id, memory=False))
        try:
            ground.call(ground.runtime.rollback(box.spec, box.instance, snapshot_id))
            look(Box(ground, ground.call(ground.runtime.resume(box.spec, None, memory=True)), box.spec))
        except CubeError:
            pass
        finally:
            ground.call(ground.runtime.delete_snapshot(snapshot_id))


@PLANTS
def test_the_usage_of_a_sandbox_with_planted_links(ground: Ground, canary: Path, plant: Plant) -> None:
    with ground.sandbox() as box:
        box.run(plant(canary))
        assert ground.call(ground.runtime.stats(box.instance)).disk_bytes < 64 << 20
