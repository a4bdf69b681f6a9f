"""What a machine has written to its memory is found and taken from outside, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm import memory
from cube.cubelet.runtime.microvm.vmm import Vmm
from cube.model.errors import HostError
from support.vm_yard import MACHINE, Yard

SIZE = MACHINE.memory_mb << 20
PAGE = memory.PAGE


@pytest.fixture
async def machine(yard: Yard) -> Vmm:
    """One whose memory file has something in it; its guest has not run."""
    yard.memory.chmod(0o644)
    with yard.memory.open("r+b") as file:
        file.seek(40 * PAGE)
        file.write(b"of the file" * 1000)
    yard.memory.chmod(0o444)
    return await yard.start()


def poke(machine: Vmm, address: int, pages: list[int], data: bytes) -> None:
    """Write into the process's memory as the guest does."""
    with open(f"/proc/{machine.pid}/mem", "r+b", buffering=0) as file:
        for page in pages:
            file.seek(address + page * PAGE)
            file.write(data)


def test_only_written_pages_are_its_own(machine: Vmm) -> None:
    address = memory.find(machine.pid, SIZE)
    before = memory.own_runs(machine.pid, address, SIZE)
    poke(machine, address, [1000, 1001, 1002, 3000, 5000], b"of the guest")
    fresh = [run for run in memory.own_runs(machine.pid, address, SIZE) if run not in before]
    assert fresh == [(1000, 1003), (3000, 3001), (5000, 5001)]


def test_runs_that_lie_close_together_are_one(machine: Vmm) -> None:
    address = memory.find(machine.pid, SIZE)
    poke(machine, address, [1000, 1005, 1014, 1040], b"x")
    found = [run for run in memory.own_runs(machine.pid, address, SIZE) if run[0] >= 1000]
    assert found == [(1000, 1015), (1040, 1041)]
    assert memory.bytes_of(found) == 16 * PAGE


def test_laid_over_a_copy_of_the_file_it_is_what_the_guest_has(machine: Vmm, yard: Yard) -> None:
    address = memory.find(machine.pid, SIZE)
    poke(machine, address, [41, 700, SIZE // PAGE - 1], b"of the guest")
    runs = memory.own_runs(machine.pid, address, SIZE)
    target = yard.directory / "copy"
    target.write_bytes(yard.memory.read_bytes())
    with target.open("r+b") as file:
        memory.lay_over(machine.pid, address, runs, file.fileno())
    with open(f"/proc/{machine.pid}/mem", "rb", buffering=0) as live:
        live.seek(address)
        seen = bytearray()
        while len(seen) < SIZE:
            seen += live.read(SIZE - len(seen))
    assert target.read_bytes() == seen
    assert seen[40 * PAGE : 40 * PAGE + 11] == b"of the file"
    assert seen[41 * PAGE : 41 * PAGE + 12] == b"of the guest"


def test_the_file_is_not_written_to(machine: Vmm, yard: Yard) -> None:
    before = yard.memory.read_bytes()
    poke(machine, memory.find(machine.pid, SIZE), list(range(0, 2000, 7)), b"of the guest")
    assert yard.memory.read_bytes() == before


def test_a_machine_with_other_memory_than_it_should_have(machine: Vmm) -> None:
    with pytest.raises(HostError, match=f"{SIZE} bytes of memory mapped instead of {2 * SIZE}"):
        memory.find(machine.pid, 2 * SIZE)


def test_a_process_without_such_memory() -> None:
    with pytest.raises(HostError, match="0 bytes of memory"):
        memory.find(os.getpid(), SIZE)


async def test_a_process_that_is_gone(machine: Vmm, tmp_path: Path) -> None:
    address = memory.find(machine.pid, SIZE)
    await machine.kill()
    with pytest.raises(HostError, match="cannot be read"):
        memory.find(machine.pid, SIZE)
    with pytest.raises(HostError):
        memory.own_runs(machine.pid, address, SIZE)
    (tmp_path / "target").touch()
    with (tmp_path / "target").open("r+b") as target, pytest.raises(HostError):
        memory.lay_over(machine.pid, address, [(0, 1)], target.fileno())
