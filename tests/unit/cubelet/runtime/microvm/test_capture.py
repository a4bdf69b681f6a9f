"""Captures are whole, unchanged and fit, or they are refused in words."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.capture import DEVICES, DISK, MANIFEST, MEMORY, Fit, Manifest
from cube.cubelet.runtime.microvm.command import Machine
from cube.model.errors import Conflict, HostError, SnapshotDamaged, SnapshotUnfit

MACHINE = Machine("tcg", "max", cpus=2, memory_mb=4, network=True)
FIT = Fit("7.2.22 (Debian)", "max", MACHINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A complete capture."""
    with (tmp_path / MEMORY).open("wb") as memory:
        memory.truncate(4 << 20)
        memory.seek(1 << 20)
        memory.write(os.urandom(5000))
    (tmp_path / DEVICES).write_bytes(os.urandom(3000))
    (tmp_path / DISK).write_bytes(bytes(4096))
    files = capture.marks(tmp_path, memory=True)
    capture.write(tmp_path, Manifest("tpl-1", files, FIT, "boot", "0" * 32))
    return tmp_path


def manifest(place: Path) -> Manifest:
    found = capture.read(place)
    assert found is not None
    return found


def test_it_is_read_as_it_was_written(place: Path) -> None:
    found = manifest(place)
    assert (found.template_id, found.fit, found.boot, found.machine_id) == ("tpl-1", FIT, "boot", "0" * 32)
    assert set(found.files) == {MEMORY, DEVICES, DISK}
    assert found.has_memory
    capture.verify(place, found.files)
    capture.require_fit(found, FIT)


def test_without_a_manifest_there_is_none(place: Path) -> None:
    (place / MANIFEST).unlink()
    assert capture.read(place) is None


@pytest.mark.parametrize("name", [MEMORY, DEVICES, DISK])
def test_a_file_that_is_cut_off(place: Path, name: str) -> None:
    size = (place / name).stat().st_size
    os.truncate(place / name, size - 1)
    with pytest.raises(SnapshotDamaged, match=f"the captured {name} has {size - 1} bytes instead of {size}"):
        capture.verify(place, manifest(place).files)


@pytest.mark.parametrize("name", [MEMORY, DEVICES])
def test_a_file_with_one_byte_changed(place: Path, name: str) -> None:
    with (place / name).open("r+b") as file:
        file.seek((1 << 20) + 17 if name == MEMORY else 17)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(SnapshotDamaged, match=f"the captured {name} is not what was written"):
        capture.verify(place, manifest(place).files)


def test_a_byte_where_there_was_a_hole(place: Path) -> None:
    with (place / MEMORY).open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"\x01")
    with pytest.raises(SnapshotDamaged):
        capture.verify(place, manifest(place).files)


@pytest.mark.parametrize("name", [MEMORY, DEVICES, DISK])
def test_a_file_that_is_missing(place: Path, name: str) -> None:
    (place / name).unlink()
    with pytest.raises(SnapshotDamaged, match=f"the captured {name} cannot be read: No such file"):
        capture.verify(place, manifest(place).files)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 1}',
        b'{"format": 2, "capture": {}}',
        b'{"format": 1, "capture": {"template_id": 5}}',
        b"\xff\xfe",
    ],
)
def test_a_manifest_that_makes_no_sense(place: Path, content: bytes) -> None:
    (place / MANIFEST).write_bytes(content)
    with pytest.raises(SnapshotDamaged, match="manifest"):
        capture.read(place)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"emulator": "10.0.2"}, r"QEMU 7\.2\.22 \(Debian\), this node has 10\.0\.2"),
        ({"processor": "Xeon"}, "processor max, this node has Xeon"),
        (
            {"machine": dataclasses.replace(MACHINE, accelerator="kvm")},
            "accelerator tcg, this node has kvm",
        ),
        ({"machine": dataclasses.replace(MACHINE, memory_mb=8)}, "memory_mb=4.*memory_mb=8"),
    ],
)
def test_another_machine_is_refused_with_both_named(place: Path, change: dict[str, object], words: str) -> None:
    here = dataclasses.replace(FIT, **change)  # type: ignore[arg-type]
    with pytest.raises(SnapshotUnfit, match=words):
        capture.require_fit(manifest(place), here)


def test_what_the_errors_are_to_a_caller() -> None:
    assert issubclass(SnapshotUnfit, Conflict)
    assert issubclass(SnapshotDamaged, HostError)


def test_files_alone_fit_anywhere(tmp_path: Path) -> None:
    (tmp_path / DISK).write_bytes(bytes(4096))
    capture.write(tmp_path, Manifest("tpl-1", capture.marks(tmp_path, memory=False)))
    found = manifest(tmp_path)
    assert not found.has_memory
    capture.require_fit(found, FIT)
    capture.verify(tmp_path, found.files)


def test_removing_one_leaves_the_disk_unless_asked(place: Path) -> None:
    capture.remove(place, disk=False)
    assert [path.name for path in place.iterdir()] == [DISK]
    capture.remove(place, disk=True)
    assert list(place.iterdir()) == []
    capture.remove(place, disk=True)
