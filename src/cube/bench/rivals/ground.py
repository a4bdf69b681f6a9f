"""What rivals have in common: a bundle directory with a root file system per round, and how programs are called."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from cube.bench.load import Round, RoundFailed
from cube.bench.sandboxes import COMMAND, EXPECTED
from cube.cubelet.storage.mounts import mount, umount

#: The first command, as the SDK's ``commands.run`` starts it.
SHELL = ("/bin/bash", "-l", "-c", COMMAND)
#: Seconds after which a program that hangs counts as failed.
_PATIENCE = 60


class CannotRun(Exception):
    """A rival cannot run on this machine; the message says why."""


class Rival(ABC):
    """Starts the image another way. Its programs are looked for in PATH; raises :class:`CannotRun` without them."""

    def __init__(self, program: str, package: str, image: Path, workspace: Path) -> None:
        found = shutil.which(program)
        if found is None:
            raise CannotRun(f"{program} is not installed: apt-get install {package}")
        self.program = found
        self.image = image
        self.workspace = workspace
        self._numbers = itertools.count()

    def round(self) -> Round:
        """Start a sandbox, wait for the answer of its first command, end it."""

        async def once() -> dict[str, float]:
            return await asyncio.to_thread(self._once)

        return once

    def _once(self) -> dict[str, float]:
        name = f"cube-bench-{os.getpid()}-{next(self._numbers)}"
        with directory(self.workspace / name) as bundle:
            for part in ("upper", "work", "rootfs"):
                (bundle / part).mkdir()
            self.prepare(bundle)
            try:
                return self.measure(name, bundle)
            finally:
                self.remove(name)
                with contextlib.suppress(OSError):
                    umount(bundle / "rootfs")

    def prepare(self, bundle: Path) -> None:  # noqa: B027  most have nothing to prepare
        """Put into the directory of a round what is there before the clock starts."""

    @abstractmethod
    def measure(self, name: str, bundle: Path) -> dict[str, float]:
        """One round in the directory ``bundle``; durations by mark. Raises ``RoundFailed``."""

    def remove(self, name: str) -> None:  # noqa: B027  what ends by itself needs no removing
        """End what :meth:`measure` started and did not end."""

    def mount(self, bundle: Path) -> None:
        """Put the root file system of a round together: a writable overlay on the image."""
        options = f"lowerdir={self.image},upperdir={bundle}/upper,workdir={bundle}/work"
        try:
            mount("overlay", bundle / "rootfs", "overlay", 0, options)
        except OSError as error:
            raise RoundFailed(f"the overlay cannot be mounted: {error.strerror}") from error


class Container(Rival):
    """A rival with sandboxes that live on, in which commands are run. Marks: ``create``, ``exec``, ``create+exec``."""

    def measure(self, name: str, bundle: Path) -> dict[str, float]:
        """See :class:`Rival`."""
        begun = time.perf_counter()
        self.mount(bundle)
        self.start(name, bundle)
        created = time.perf_counter()
        output = self.execute(name)
        answered = time.perf_counter()
        check(output)
        return {"create": created - begun, "exec": answered - created, "create+exec": answered - begun}

    @abstractmethod
    def start(self, name: str, bundle: Path) -> None:
        """Start a container; raises ``RoundFailed``."""

    @abstractmethod
    def execute(self, name: str) -> bytes:
        """Stdout of :data:`SHELL` in the container; raises ``RoundFailed``."""


def check(output: bytes) -> None:
    """Raise ``RoundFailed`` when the first command printed anything but what it should."""
    if output != EXPECTED:
        raise RoundFailed(f"the command printed {output!r}")


def call(*command: str, output: bool = False) -> bytes:
    """Run a program to its end; returns its stdout when that is asked for.

    Raises ``RoundFailed`` with the last words of the program. Without ``output`` its streams are files: what it leaves
    running may hold a pipe open.
    """
    with Path(os.devnull).open("rb") as nothing, _scratch() as stderr:
        try:
            done = subprocess.run(
                command,
                stdin=nothing,
                stdout=subprocess.PIPE if output else subprocess.DEVNULL,
                stderr=stderr,
                check=False,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise RoundFailed(f"{Path(command[0]).name} did not end within {_PATIENCE} seconds") from None
        if done.returncode != 0:
            raise RoundFailed(f"{Path(command[0]).name} ended with {done.returncode}: {_last_words(stderr)}")
    return done.stdout or b""


@contextlib.contextmanager
def directory(path: Path) -> Iterator[Path]:
    """A new directory for the block."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def _scratch() -> Iterator[int]:
    file = os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _last_words(file: int) -> str:
    size = os.fstat(file).st_size
    lines = os.pread(file, 4096, max(0, size - 4096)).decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")
