"""The ASGI application behind port 49999 of every sandbox on the node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cube.envd.asgi import ClientDisconnected, Receive, Scope, Send, header, read_body, respond, respond_json
from cube.envd.errors import sandbox_gone
from cube.envd.interpreter.contexts import Context, Interpreter, interpreter_of
from cube.envd.interpreter.execute import ExecuteResponse
from cube.envd.interpreter.kernel import Cell
from cube.envd.interpreter.languages import Language
from cube.envd.interpreter.requests import MAX_BODY, ExecuteRequest, parse_context, parse_execute
from cube.envd.sandboxes import EnvdSandbox, EnvdSandboxes
from cube.model.errors import CubeError, LimitExceeded, NotFound, SandboxNotFound, SandboxNotRunning, Unavailable

#: Set by the proxy, which removes what a client may have sent under this name.
SANDBOX_HEADER = b"x-cube-sandbox-id"


class InterpreterApp:
    """Routes requests to the interpreter of the sandbox that they are for."""

    def __init__(self, sandboxes: EnvdSandboxes) -> None:
        self._sandboxes = sandboxes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        sandbox_id = header(scope, SANDBOX_HEADER)
        try:
            sandbox = await self._sandboxes.get(sandbox_id)
            await self._route(sandbox, scope, receive, send)
        except ClientDisconnected:
            return
        except CubeError as error:
            if (gone := await self._gone(sandbox_id)) is not None:
                await respond_json(send, *sandbox_gone(gone))
            else:
                await respond(send, error.code, error.message.encode(), _headers(error))

    async def _gone(self, sandbox_id: str) -> SandboxNotFound | SandboxNotRunning | None:
        try:
            await self._sandboxes.get(sandbox_id)
        except (SandboxNotFound, SandboxNotRunning) as error:
            return error
        return None

    async def _route(self, sandbox: EnvdSandbox, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], [part for part in scope["path"].split("/") if part]:
            case "GET", ["health"]:
                await respond_json(send, 200, "OK")
            case "POST", ["execute"]:
                await self._execute(sandbox, receive, send)
            case "GET", ["contexts"]:
                await respond_json(send, 200, [_shown(context) for context in interpreter_of(sandbox).list()])
            case "POST", ["contexts"]:
                await self._create(sandbox, receive, send)
            case "DELETE", ["contexts", context_id]:
                await interpreter_of(sandbox).remove(context_id)
                await respond_json(send, 200, None)
            case "POST", ["contexts", context_id, "restart"]:
                await interpreter_of(sandbox).get(context_id).restart()
                await respond_json(send, 200, None)
            case _:
                raise NotFound(f"The code interpreter has no {scope['method']} {scope['path'][:200]}.")

    async def _create(self, sandbox: EnvdSandbox, receive: Receive, send: Send) -> None:
        request = parse_context(await read_body(receive, MAX_BODY))
        context = await interpreter_of(sandbox).create(request.language, request.cwd)
        await respond_json(send, 200, _shown(context))

    async def _execute(self, sandbox: EnvdSandbox, receive: Receive, send: Send) -> None:
        interpreter = interpreter_of(sandbox)

        async def cut_off() -> bool:
            return interpreter.closed or await self._gone(sandbox.sandbox_id) is not None

        with interpreter.admission:
            request = parse_execute(await read_body(receive, MAX_BODY))
            context = _context(interpreter, request)
            await context.ready()
            await ExecuteResponse(context, _cell(context, request), send).run(receive, cut_off)


def _context(interpreter: Interpreter, request: ExecuteRequest) -> Context:
    return interpreter.get(request.context_id) if request.context_id else interpreter.default(request.language)


def _cell(context: Context, request: ExecuteRequest) -> Cell:
    """The cell; a context that was made for TypeScript takes nothing else."""
    return replace(request.cell, typescript=True) if context.language is Language.TYPESCRIPT else request.cell


def _headers(error: CubeError) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if isinstance(error, LimitExceeded | Unavailable) and error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    return headers


def _shown(context: Context) -> dict[str, Any]:
    return {"id": context.id, "language": context.language.value, "cwd": context.cwd}
