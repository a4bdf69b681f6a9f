"""Plans that end in a program of their own: how the processes of virtual machines are started."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cube.cubelet.runtime.container import steps
from cube.cubelet.runtime.container.execute import Execute
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.container.steps import Step
from cube.model.errors import HostError
from support.descriptors import open_fds
from support.inside_sandbox import read_to_end
from support.launch_ground import Ground, childless, exists, ground, kill


@pytest.fixture
async def place(launcher: Launcher, tmp_path: Path) -> AsyncIterator[Ground]:
    async with ground(launcher, tmp_path) as made:
        yield made


@dataclass
class Pipe:
    reader: int
    writer: int

    @classmethod
    def make(cls) -> Pipe:
        return cls(*os.pipe())

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def errors() -> Iterator[Pipe]:
    made = Pipe.make()
    yield made
    made.close()


def shell(place: Ground, errors: int, script: str, descriptors: Sequence[int] = ()) -> Callable[[int], list[Step]]:
    """What completes a plan that runs a script of the image's shell."""

    def complete(control: int) -> list[Step]:
        program = Execute(control, errors, "/bin/sh", ("sh", "-c", script), ("A=b",), tuple(descriptors))
        return [*place.plan(replace=_own_network).steps, program]

    return complete


def _own_network(found: list[Step]) -> list[Step]:
    return [steps.NewNet() if isinstance(step, steps.EnterNet) else step for step in found]


async def said(launcher: Launcher, place: Ground, errors: Pipe, script: str, descriptors: Sequence[int] = ()) -> str:
    """What a script writes to its standard error."""
    writer = os.dup(errors.writer)
    try:
        _, pidfd = await launcher.execute(shell(place, writer, f"exec >&2; {script}", descriptors))
    finally:
        os.close(writer)
    os.close(pidfd)
    os.close(errors.writer)
    try:
        return read_to_end(errors.reader).strip()
    finally:
        errors.writer = os.open("/dev/null", os.O_WRONLY)


async def test_it_is_the_program_with_its_arguments_and_environment(
    launcher: Launcher, place: Ground, errors: Pipe
) -> None:
    assert await said(launcher, place, errors, 'echo $$ $0 "$A" "$HOME"') == "1 sh b"


async def test_descriptors_come_in_order_and_no_other(launcher: Launcher, place: Ground, errors: Pipe) -> None:
    first, second = Pipe.make(), Pipe.make()
    script = "echo one >&3; echo two >&4; echo again >&5; ls /proc/self/fd | tr '\\n' ' '"
    found = await said(launcher, place, errors, script, [second.writer, first.writer, second.writer])
    # The last one is that of the directory that ls reads.
    assert found == "0 1 2 3 4 5 6"
    assert os.read(second.reader, 100) == b"one\nagain\n"
    assert os.read(first.reader, 100) == b"two\n"
    first.close()
    second.close()


async def test_its_network_is_empty(launcher: Launcher, place: Ground, errors: Pipe) -> None:
    assert await said(launcher, place, errors, "tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/net/route") == "lo"


async def test_it_outlives_the_launcher(launcher: Launcher, place: Ground, errors: Pipe) -> None:
    pid, pidfd = await launcher.execute(shell(place, errors.writer, "sleep 60"))
    os.close(pidfd)
    await launcher.close()
    assert exists(pid)
    await kill(pid)


async def test_a_program_that_is_missing_is_named_and_leaves_nothing(
    launcher: Launcher, place: Ground, errors: Pipe
) -> None:
    before = open_fds()

    def complete(control: int) -> list[Step]:
        return [*place.plan().steps, Execute(control, errors.writer, "/no/such", ("x",))]

    with pytest.raises(HostError, match=r"executing /no/such failed: No such file or directory \(/no/such\)"):
        await launcher.execute(complete)
    assert launcher.pid is not None
    assert await childless(launcher.pid)
    assert open_fds() == before


async def test_it_is_the_last_step_only(launcher: Launcher, place: Ground, errors: Pipe) -> None:
    def complete(control: int) -> list[Step]:
        program = Execute(control, errors.writer, "/bin/true", ("true",))
        return [*place.plan().steps, program, steps.NoNewPrivs()]

    with pytest.raises(HostError, match="Bad message"):
        await launcher.execute(complete)
