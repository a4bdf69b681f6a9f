"""Processes that outlive the service, or that are copied with their sandbox: what is kept for them, and taking them up.

What is kept is the sandbox's own memory, so it says no more than the sandbox wants it to.
"""

from __future__ import annotations

from typing import Any

import orjson

from cube.envd.guest import GuestProcess, LastingGuest, TerminalSize
from cube.envd.process.managed import ProcessSpec
from cube.envd.process.processes import table_of
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import LimitExceeded, NotFound

#: Longest note, in bytes; what a longer one would say beside the command is left out.
NOTE_LIMIT = 4096
_TERMINAL_LIMIT = 0xFFFF


def keep(sandbox: EnvdSandbox, spec: ProcessSpec, process: GuestProcess) -> None:
    """Keep what the client asked for with the process itself, where the guest can."""
    if isinstance(sandbox.guest, LastingGuest):
        sandbox.guest.annotate(process.pid, note(spec))


async def take_up(sandbox: EnvdSandbox) -> int:
    """Take up the processes that clients have started in this sandbox, or in the one that it was copied from, and that
    still run; returns how many. Raises what the guest raises."""
    if not isinstance(sandbox.guest, LastingGuest):
        return 0
    table, count = table_of(sandbox), 0
    for survivor in await sandbox.guest.survivors():
        if (spec := read(survivor.note)) is None:
            continue
        try:
            table.check_room()
            table.add(spec, await sandbox.guest.take_up(survivor.pid), None)
        except (NotFound, LimitExceeded):
            continue  # it has ended meanwhile, or the sandbox makes up more of them than there can be
        count += 1
    return count


def note(spec: ProcessSpec) -> bytes:
    """What is kept of a process."""
    size = spec.terminal and [spec.terminal.cols, spec.terminal.rows]
    least = {"tag": spec.tag, "stdin": spec.stdin, "terminal": size}
    most = {**least, "cmd": spec.cmd, "args": spec.args, "cwd": spec.cwd}
    for known in ({**most, "envs": spec.envs}, most, {**least, "cmd": spec.cmd}):
        if len(text := orjson.dumps(known)) <= NOTE_LIMIT:
            return text
    return orjson.dumps({"stdin": spec.stdin, "terminal": size, "cmd": ""})


def read(kept: bytes) -> ProcessSpec | None:
    """The process that a note is about; ``None`` when it is none of ours."""
    try:
        value = orjson.loads(kept)
        return _spec(value) if isinstance(value, dict) else None
    except (ValueError, TypeError, KeyError):
        return None


def _spec(value: dict[str, Any]) -> ProcessSpec:
    terminal = value["terminal"]
    return ProcessSpec(
        cmd=_text(value["cmd"]),
        args=tuple(_text(one) for one in value.get("args", ())),
        envs=tuple((_text(name), _text(content)) for name, content in value.get("envs", ())),
        cwd=_text_if_any(value.get("cwd")),
        tag=_text_if_any(value.get("tag")),
        stdin=value["stdin"] is True,
        terminal=None if terminal is None else TerminalSize(*(_size(one) for one in terminal)),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _text_if_any(value: object) -> str | None:
    return None if value is None else _text(value)


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _TERMINAL_LIMIT:
        raise ValueError
    return value
