"""``process.Process``: the wire side of the process table."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from protobuf import Oneof

from cube.envd.call import Call, current_call
from cube.envd.errors import ProcessNotFound, UnknownUser, connect_errors
from cube.envd.guest import SpawnRequest, TerminalSize
from cube.envd.process import shells, survivors
from cube.envd.process.events import data_event, end_event, keepalive_event, start_event
from cube.envd.process.managed import ManagedProcess, ProcessSpec
from cube.envd.process.processes import ProcessTable, table_of
from cube.envd.proto.process import process_pb as pb
from cube.envd.proto.process.process_connect import Process
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import InvalidInput, NotFound, Unauthenticated

_Response = TypeVar("_Response", pb.StartResponse, pb.ConnectResponse)

#: Largest terminal; the kernel's structure has 16 bits for each.
_TERMINAL_LIMIT = 0xFFFF
_SIGNALS = {pb.Signal.SIGTERM: signal.SIGTERM, pb.Signal.SIGKILL: signal.SIGKILL}


class ProcessService(Process):
    """Answers for the sandbox of :data:`current_call`."""

    def start(self, request: pb.StartRequest, ctx: RequestContext[Any, Any]) -> AsyncIterator[pb.StartResponse]:
        """Start a process and follow it. It outlives the client, but not the client's time limit."""
        return _follow(lambda call: _start(request, call), pb.StartResponse)

    def connect(self, request: pb.ConnectRequest, ctx: RequestContext[Any, Any]) -> AsyncIterator[pb.ConnectResponse]:
        """Follow a process that runs or has ended a short while ago."""

        async def found(call: Call) -> ManagedProcess:
            return _select_any(table_of(call.sandbox), request.process)

        return _follow(found, pb.ConnectResponse)

    async def list(self, request: pb.ListRequest, ctx: RequestContext[Any, Any]) -> pb.ListResponse:
        """Processes that run, in order of their start."""
        table = table_of(current_call.get().sandbox)
        return pb.ListResponse(processes=[_info(process) for process in table.live()])

    async def send_input(self, request: pb.SendInputRequest, ctx: RequestContext[Any, Any]) -> pb.SendInputResponse:
        """Write input; waits while the process does not read."""
        with connect_errors():
            process = _selected(request.process)
            async with asyncio.timeout_at(current_call.get().deadline):
                await _write(process, request.input)
        return pb.SendInputResponse()

    async def stream_input(
        self, request: AsyncIterator[pb.StreamInputRequest], ctx: RequestContext[Any, Any]
    ) -> pb.StreamInputResponse:
        """Write input in order, until the client ends the stream."""
        process: ManagedProcess | None = None
        with connect_errors():
            async with asyncio.timeout_at(current_call.get().deadline):
                async for message in request:
                    process = await _stream_step(process, message)
        return pb.StreamInputResponse()

    async def send_signal(self, request: pb.SendSignalRequest, ctx: RequestContext[Any, Any]) -> pb.SendSignalResponse:
        """Send SIGTERM or SIGKILL."""
        with connect_errors():
            number = _SIGNALS.get(request.signal)
            if number is None:
                raise InvalidInput("signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL", field="signal")
            await _selected(request.process).signal(number)
        return pb.SendSignalResponse()

    async def close_stdin(self, request: pb.CloseStdinRequest, ctx: RequestContext[Any, Any]) -> pb.CloseStdinResponse:
        """End standard input once what was sent before is written."""
        with connect_errors():
            async with asyncio.timeout_at(current_call.get().deadline):
                await _selected(request.process).close_stdin()
        return pb.CloseStdinResponse()

    async def update(self, request: pb.UpdateRequest, ctx: RequestContext[Any, Any]) -> pb.UpdateResponse:
        """Resize the terminal."""
        with connect_errors():
            process = _selected(request.process)
            if (size := _terminal_size(request.pty)) is not None:
                await process.resize(size)
        return pb.UpdateResponse()


async def _follow(
    opening: Callable[[Call], Awaitable[ManagedProcess]], wrap: type[_Response]
) -> AsyncIterator[_Response]:
    """The events of a process for one client, from ``start`` to ``end``.

    Output counts as delivered when the server has taken it while the client was still connected.
    """
    call = current_call.get()
    with connect_errors():
        process = await opening(call)
    with connect_errors(), process.subscribe() as subscription:
        call.connection.on_gone = subscription.wakeup.set
        yield wrap(event=start_event(process.pid))
        while not call.connection.gone:
            call.check_deadline()
            if (output := subscription.peek()) is not None:
                yield wrap(event=data_event(*output))
                if not call.connection.gone:
                    subscription.delivered(len(output[1]))
            elif process.ended:
                yield wrap(event=_end(process))
                return
            elif not await call.wait(subscription.wakeup):
                yield wrap(event=keepalive_event())


def _end(process: ManagedProcess) -> pb.ProcessEvent:
    if process.exit is None:
        raise ConnectError(Code.UNAVAILABLE, "the sandbox stopped before the process ended")
    return end_event(process.exit)


async def _start(request: pb.StartRequest, call: Call) -> ManagedProcess:
    spec = _spec(request)
    table = table_of(call.sandbox)
    table.check_room()
    try:
        guest = await shells.spawn(call.sandbox.guest, _spawn_request(spec, call.sandbox, call.user))
    except Unauthenticated as error:
        raise UnknownUser(call.user) from error
    except NotFound as error:
        # A program that is missing is a bad request; "not found" is for processes.
        raise InvalidInput(f"error starting process '{spec.cmd}': {error.message}", field="process.cmd") from error
    survivors.keep(call.sandbox, spec, guest)
    return table.add(spec, guest, call.deadline)


def _spec(request: pb.StartRequest) -> ProcessSpec:
    config = request.process
    if config is None or not config.cmd:
        raise InvalidInput("process.cmd is missing", field="process.cmd")
    return ProcessSpec(
        cmd=config.cmd,
        args=tuple(config.args),
        envs=tuple(config.envs.items()),
        cwd=config.cwd if config.has_field("cwd") else None,
        tag=request.tag if request.has_field("tag") else None,
        stdin=request.stdin if request.has_field("stdin") else True,
        terminal=_terminal_size(request.pty),
    )


def _terminal_size(pty: pb.PTY | None) -> TerminalSize | None:
    if pty is None:
        return None
    size = pty.size or pb.PTY.Size()
    if max(size.cols, size.rows) > _TERMINAL_LIMIT:
        raise InvalidInput(f"a terminal has at most {_TERMINAL_LIMIT} columns and rows", field="pty.size")
    return TerminalSize(size.cols, size.rows)


def _spawn_request(spec: ProcessSpec, sandbox: EnvdSandbox, user: str) -> SpawnRequest:
    for text in (spec.cmd, *spec.args, spec.cwd or "", *(part for pair in spec.envs for part in pair)):
        if "\0" in text:
            raise InvalidInput("a NUL character cannot be passed to a process")
    if any(not name or "=" in name for name, _ in spec.envs):
        raise InvalidInput("the name of an environment variable is neither empty nor contains '='", field="envs")
    return SpawnRequest(
        argv=(spec.cmd, *spec.args),
        user=user,
        cwd=spec.cwd or sandbox.default_workdir,
        env={**sandbox.image.env, **sandbox.env_vars, **dict(spec.envs)},
        stdin=spec.stdin and spec.terminal is None,
        terminal=spec.terminal,
    )


def _info(process: ManagedProcess) -> pb.ProcessInfo:
    spec = process.spec
    config = pb.ProcessConfig(cmd=spec.cmd, args=list(spec.args), envs=dict(spec.envs), cwd=spec.cwd)
    return pb.ProcessInfo(config=config, pid=process.pid, tag=spec.tag)


def _selected(selector: pb.ProcessSelector | None) -> ManagedProcess:
    table = table_of(current_call.get().sandbox)
    match selector and selector.selector:
        case Oneof(field="pid", value=int(pid)):
            return table.by_pid(pid)
        case Oneof(field="tag", value=str(tag)):
            return table.by_tag(tag)
    raise InvalidInput("process.pid or process.tag is missing", field="process")


def _select_any(table: ProcessTable, selector: pb.ProcessSelector | None) -> ManagedProcess:
    try:
        return _selected(selector)
    except ProcessNotFound:
        match selector and selector.selector:
            case Oneof(field="pid", value=int(pid)):
                return table.ended_by_pid(pid)
            case Oneof(field="tag", value=str(tag)):
                return table.ended_by_tag(tag)
        raise


async def _stream_step(process: ManagedProcess | None, message: pb.StreamInputRequest) -> ManagedProcess | None:
    match message.event:
        case Oneof(field="start", value=pb.StreamInputRequest.StartEvent(process=selector)):
            return _selected(selector)
        case Oneof(field="data", value=pb.StreamInputRequest.DataEvent(input=data)):
            if process is None:
                raise InvalidInput("the first message of an input stream must be start")
            await _write(process, data)
    return process


async def _write(process: ManagedProcess, data: pb.ProcessInput | None) -> None:
    match data and data.input:
        case Oneof(field="stdin", value=bytes(content)):
            await process.write_stdin(content)
        case Oneof(field="pty", value=bytes(content)):
            await process.write_terminal(content)
        case _:
            raise InvalidInput("input.stdin or input.pty is missing", field="input")
