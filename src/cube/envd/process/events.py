"""The events of a process on the wire."""

from __future__ import annotations

from typing import Any, Literal

from protobuf import Oneof

from cube.envd.guest import ExitStatus
from cube.envd.process.output import Channel
from cube.envd.proto.process.process_pb import ProcessEvent

#: Signal names as Go's ``syscall.Signal.String`` prints them; clients show the text.
_SIGNAL_TEXTS = (
    "hangup",
    "interrupt",
    "quit",
    "illegal instruction",
    "trace/breakpoint trap",
    "aborted",
    "bus error",
    "floating point exception",
    "killed",
    "user defined signal 1",
    "segmentation fault",
    "user defined signal 2",
    "broken pipe",
    "alarm clock",
    "terminated",
)


def start_event(pid: int) -> ProcessEvent:
    """The first event of every stream."""
    event: Oneof[Literal["start"], ProcessEvent.StartEvent] = Oneof("start", ProcessEvent.StartEvent(pid=pid))
    return ProcessEvent(event=event)


def data_event(channel: Channel, data: bytes) -> ProcessEvent:
    """Output."""
    output: Any = Oneof(channel.value, data)
    event: Oneof[Literal["data"], ProcessEvent.DataEvent] = Oneof("data", ProcessEvent.DataEvent(output=output))
    return ProcessEvent(event=event)


def keepalive_event() -> ProcessEvent:
    """A sign of life in silence."""
    event: Oneof[Literal["keepalive"], ProcessEvent.KeepAlive] = Oneof("keepalive", ProcessEvent.KeepAlive())
    return ProcessEvent(event=event)


def end_event(status: ExitStatus) -> ProcessEvent:
    """The last event of a process that ended."""
    text = status_text(status)
    end = ProcessEvent.EndEvent(
        exit_code=-1 if status.code is None else status.code,
        exited=status.code is not None,
        status=text,
        error=None if status.code == 0 else text,
    )
    event: Oneof[Literal["end"], ProcessEvent.EndEvent] = Oneof("end", end)
    return ProcessEvent(event=event)


def status_text(status: ExitStatus) -> str:
    """How it ended, as Go's ``os.ProcessState.String`` prints it."""
    if status.code is not None:
        return f"exit status {status.code}"
    number = status.signal or 0
    known = 0 < number <= len(_SIGNAL_TEXTS)
    return f"signal: {_SIGNAL_TEXTS[number - 1] if known else f'signal {number}'}"
