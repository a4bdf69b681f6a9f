"""Captures: the files that a machine can be started from again, and the manifest that says what they are.

One directory holds ``memory`` (as long as the guest's memory, with holes), ``devices`` (QEMU's state of all else)
and ``disk``, or the disk alone; and ``capture.json``, which is written last: without it there is no capture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from cube.cubelet.runtime.microvm.command import Machine
from cube.cubelet.storage import sparse
from cube.model.errors import SnapshotDamaged, SnapshotUnfit

MEMORY: Final = "memory"
DEVICES: Final = "devices"
DISK: Final = "disk"
MANIFEST: Final = "capture.json"
#: Its content is checked; of the disk only the length, for it may be large and only grows stale, not unsound.
_CHECKED: Final = (DEVICES, MEMORY)
_FORMAT: Final = 1
_LONGEST_MANIFEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Fit:
    """What captured memory fits into. All of it must be the same."""

    #: Version of QEMU.
    emulator: str
    #: The processor that the guest sees, as far as its state depends on it.
    processor: str
    machine: Machine
    #: Of the devices, see :func:`cube.cubelet.runtime.microvm.command.layout`.
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells whether a file is the one that was written."""

    size: int
    #: See :func:`cube.cubelet.storage.sparse.digest`; ``None`` for a file whose content is not checked.
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a capture."""

    template_id: str
    files: dict[str, Mark]
    #: ``None`` when it holds the disk alone.
    fit: Fit | None = None
    #: Fingerprint of the kernel and initramfs that the memory began with.
    boot: str = ""
    #: Identity of the guest, for a resume.
    machine_id: str = ""
    #: Number of the seat whose address the guest has; ``None`` where it gets another one.
    seat: int | None = None
    #: What the interpreter had in the memory, see :mod:`cube.envd.interpreter.handover`.
    contexts: dict[str, Any] | None = None
    #: Whether there may be other machines with the same memory: all but the capture of a pause.
    is_copy: bool = True

    @property
    def has_memory(self) -> bool:
        """Whether processes come back."""
        return self.fit is not None


_ADAPTER: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def marks(directory: Path, *, memory: bool) -> dict[str, Mark]:
    """The marks of the files of a capture that is complete but for its manifest. Blocks."""
    found = {DISK: Mark((directory / DISK).stat().st_size)}
    for name in _CHECKED if memory else ():
        with (directory / name).open("rb") as file:
            found[name] = Mark(os.fstat(file.fileno()).st_size, sparse.digest(file.fileno()))
    return found


def write(directory: Path, manifest: Manifest) -> None:
    """Complete a capture. Blocks."""
    unfinished = directory / f"{MANIFEST}.new"
    document = {"format": _FORMAT, "capture": _ADAPTER.dump_python(manifest, mode="json")}
    unfinished.write_bytes(TypeAdapter(dict[str, Any]).dump_json(document))
    unfinished.replace(directory / MANIFEST)


def read(directory: Path) -> Manifest | None:
    """The manifest of a capture, ``None`` when there is none. Raises ``SnapshotDamaged``. Blocks."""
    try:
        with (directory / MANIFEST).open("rb") as file:
            data = file.read(_LONGEST_MANIFEST)
    except FileNotFoundError:
        return None
    try:
        document = TypeAdapter(dict[str, Any]).validate_json(data)
        if document.get("format") != _FORMAT:
            raise SnapshotDamaged(f"the manifest of a capture is not of format {_FORMAT}: it was made by another cube")
        return _ADAPTER.validate_python(document["capture"])
    except (ValidationError, KeyError) as error:
        raise SnapshotDamaged(f"the manifest of a capture cannot be understood: {directory / MANIFEST}") from error


def remove(directory: Path, *, disk: bool) -> None:
    """Remove a capture, first of all its manifest; the disk too when asked. Succeeds when there is none. Blocks."""
    for name in (MANIFEST, f"{MANIFEST}.new", DEVICES, MEMORY, *((DISK,) if disk else ())):
        (directory / name).unlink(missing_ok=True)


def require_fit(manifest: Manifest, here: Fit) -> None:
    """Raise ``SnapshotUnfit``, which names both, when captured memory was made by something else than ``here``."""
    there = manifest.fit
    if there is None or there == here:
        return
    for what, made, have in _differences(there, here):
        if made != have:
            raise SnapshotUnfit(
                f"the memory was captured with {what} {made}, this node has {have}: "
                "it can only be started there again; resume it without memory to start from its files"
            )


def _differences(there: Fit, here: Fit) -> tuple[tuple[str, object, object], ...]:
    return (
        ("QEMU", there.emulator, here.emulator),
        ("accelerator", there.machine.accelerator, here.machine.accelerator),
        ("processor", there.processor, here.processor),
        ("machine", there.machine, here.machine),
        ("devices", there.layout, here.layout),
    )


def verify_lengths(directory: Path, files: Mapping[str, Mark]) -> None:
    """Raise ``SnapshotDamaged`` when a file is missing or not as long as it was; a look that costs nothing. Blocks."""
    verify(directory, {name: Mark(mark.size) for name, mark in files.items()})


def verify(directory: Path, files: Mapping[str, Mark]) -> None:
    """Raise ``SnapshotDamaged`` unless the files are what was written. Reads memory as a whole; blocks."""
    for name, mark in files.items():
        try:
            with (directory / name).open("rb") as file:
                _verify(name, file.fileno(), mark)
        except OSError as error:
            raise SnapshotDamaged(f"the captured {name} cannot be read: {error.strerror}") from error


def _verify(name: str, file: int, mark: Mark) -> None:
    size = os.fstat(file).st_size
    if size != mark.size:
        raise SnapshotDamaged(f"the captured {name} has {size} bytes instead of {mark.size}")
    if mark.digest is not None and sparse.digest(file) != mark.digest:
        raise SnapshotDamaged(f"the captured {name} is not what was written")
