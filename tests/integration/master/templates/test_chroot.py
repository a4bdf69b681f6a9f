"""Programs of a tree run inside it: no network, private mounts, nothing survives."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cube.cubelet.storage import mounts
from cube.master.templates.chroot import run_inside
from cube.master.templates.process import ISOLATED, run
from cube.model.errors import HostError
from support.images import fill_minimal_tree

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    fill_minimal_tree(path)
    (path / "mnt").mkdir()
    return path


async def output(tree: Path, script: str, **options: object) -> list[str]:
    lines: list[str] = []
    await run_inside(tree, ["/bin/sh", "-c", script], on_line=lines.append, **options)  # type: ignore[arg-type]
    return lines


async def test_as_the_asked_user_with_a_clean_environment(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    script = 'id -u; id -g; echo "$HOME|$SECRET"; [ -c /dev/null ] && [ -w /dev/shm ] && [ -d /proc/self ] && echo ok'
    assert await output(tree, script, uid=1000, home="/home/user") == ["1000", "1000", "/home/user|", "ok"]


async def test_without_network(tree: Path) -> None:
    assert await output(tree, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ip link show up") == ["lo"]


async def test_a_directory_is_shown_read_only(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("x")
    assert await output(tree, "ls /mnt; touch /mnt/new 2>/dev/null || echo no", shown=tmp_path / "shown") == [
        "file",
        "no",
    ]


async def test_nothing_stays(tree: Path) -> None:
    with pytest.raises(HostError, match="status 7"):
        await output(tree, "touch /tmp/x /dev/x; exit 7")
    assert mounts.below(tree) == []
    assert list((tree / "tmp").iterdir()) == list((tree / "dev").iterdir()) == []


async def test_cancelling_ends_even_what_has_left_the_process_group(tmp_path: Path) -> None:
    started = asyncio.Event()
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    script = f"setsid sh -c 'exec 9>{fifo}; echo on >&9; sleep 60' & wait"
    asyncio.get_running_loop().add_reader(reader, started.set)
    task = asyncio.create_task(run([*ISOLATED, "sh", "-c", script]))
    await started.wait()
    assert os.read(reader, 100) == b"on\n"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.set_blocking(reader, True)
    asyncio.get_running_loop().remove_reader(reader)
    assert await asyncio.wait_for(asyncio.to_thread(os.read, reader, 100), 5) == b"", "the last writer is still there"
    os.close(reader)
