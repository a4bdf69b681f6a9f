"""Compiles the policy into a classic BPF program for ``seccomp(SECCOMP_SET_MODE_FILTER)``.

The program checks the architecture, then finds the call's number in a balanced tree of ranges: about ten instructions
a call; and the kernel caches the verdict of calls whose arguments are not looked at.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cube.cubelet.runtime.container.seccomp.numbers import ARCHITECTURES
from cube.cubelet.runtime.container.seccomp.policy import (
    CONDITIONAL,
    NOT_IMPLEMENTED,
    Condition,
    Rule,
    allowed_calls,
)
from cube.model.errors import Unsupported

# linux/seccomp.h, linux/bpf_common.h
RET_ALLOW = 0x7FFF_0000
RET_ERRNO = 0x0005_0000
RET_KILL_PROCESS = 0x8000_0000

_LD_ABS = 0x20
_ALU_AND = 0x54
_JMP_JA = 0x05
_JMP_JEQ = 0x15
_JMP_JGE = 0x35
_RET = 0x06

# struct seccomp_data: nr, arch, instruction pointer, six 64-bit arguments (low words first: both architectures are
# little endian)
_NR = 0
_ARCH = 4
_ARGS = 16


@dataclass(frozen=True, slots=True)
class Instruction:
    """One ``struct sock_filter``."""

    code: int
    k: int
    jt: int = 0
    jf: int = 0

    def encode(self) -> bytes:
        """As the kernel reads it."""
        return struct.pack("<HBBI", self.code, self.jt, self.jf, self.k)


Block = list[Instruction]


def _ret(value: int) -> Block:
    return [Instruction(_RET, value)]


_ALLOW = _ret(RET_ALLOW)


def _refuse(error: int) -> Block:
    return _ret(RET_ERRNO | error)


def _test(condition: Condition, miss: int) -> Block:
    """Fall through when the condition holds, else skip ``miss`` instructions further."""
    load = [Instruction(_LD_ABS, _ARGS + 8 * condition.argument)]
    if condition.mask != 0xFFFF_FFFF:
        load.append(Instruction(_ALU_AND, condition.mask))
    jt, jf = (0, miss) if condition.equal else (miss, 0)
    return [*load, Instruction(_JMP_JEQ, condition.value, jt, jf)]


def _rule(rule: Rule) -> Block:
    """Allow when one alternative holds; the accumulator is clobbered, which is fine at a leaf."""
    block: Block = []
    for alternative in rule.any_of:
        tests: Block = _ALLOW
        for condition in reversed(alternative):
            tests = _test(condition, len(tests)) + tests
        block += tests
    return block + _refuse(rule.error)


def _leaves(numbers: dict[str, int]) -> dict[int, Block]:
    leaves = {numbers[name]: _ALLOW for name in allowed_calls() if name in numbers}
    leaves |= {numbers[rule.call]: _rule(rule) for rule in CONDITIONAL if rule.call in numbers}
    leaves |= {numbers[name]: _refuse(errno.ENOSYS) for name in NOT_IMPLEMENTED if name in numbers}
    return leaves


def _ranges(numbers: dict[str, int]) -> Iterator[tuple[int, Block]]:
    """(first number, what to do from there on), neighbours with the same answer joined."""
    leaves = _leaves(numbers)
    last: Block | None = None
    for number in range(max(numbers.values()) + 1):
        block = leaves.get(number, _refuse(errno.EPERM))
        if block != last:
            yield number, block
        last = block
    yield max(numbers.values()) + 1, _refuse(errno.ENOSYS)


def _tree(ranges: list[tuple[int, Block]]) -> Block:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    # Conditional jumps reach 255 instructions, the plain jump all of them.
    return [Instruction(_JMP_JGE, ranges[middle][0], 0, 1), Instruction(_JMP_JA, len(left)), *left, *right]


def compile_filter(machine: str) -> list[Instruction]:
    """The filter for a machine as ``os.uname().machine`` names it; raises ``Unsupported`` for one without a table."""
    if machine not in ARCHITECTURES:
        raise Unsupported(f"no system call table for {machine}; cube runs on {' and '.join(sorted(ARCHITECTURES))}")
    audit, numbers = ARCHITECTURES[machine]
    # x32 calls have bit 30 set and the same architecture: they are beyond the last number, hence ENOSYS.
    return [
        Instruction(_LD_ABS, _ARCH),
        Instruction(_JMP_JEQ, audit, 1, 0),
        *_ret(RET_KILL_PROCESS),
        Instruction(_LD_ABS, _NR),
        *_tree(list(_ranges(numbers))),
    ]


@functools.cache
def filter_bytes(machine: str | None = None) -> bytes:
    """The filter of this machine as an array of ``struct sock_filter``."""
    return b"".join(instruction.encode() for instruction in compile_filter(machine or os.uname().machine))
