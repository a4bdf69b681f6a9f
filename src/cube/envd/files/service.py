"""The ``/files`` resources: who may use them, as which user, on which file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import orjson

from cube.envd.asgi import Receive, Scope, Send, read_body, respond_json
from cube.envd.auth import require_file_access
from cube.envd.errors import UnknownUser
from cube.envd.files.compose import compose
from cube.envd.files.download import send_file
from cube.envd.files.transfers import transfers_of
from cube.envd.files.upload import receive_files
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import InvalidInput, NotFound, Unauthenticated

_BODY_LIMIT = 1024 * 1024


async def get_file(scope: Scope, receive: Receive, send: Send, sandbox: EnvdSandbox, query: Mapping[str, str]) -> None:
    """``GET /files`` and ``HEAD /files``."""
    require_file_access(scope, sandbox, query, "read")
    path, user = query.get("path", ""), query.get("username") or sandbox.default_user
    if not path:
        raise InvalidInput("the query parameter 'path' is missing", field="path")
    async with transfers_of(sandbox).running():
        with _named(path, user):
            opened = await sandbox.guest.open_read(path, user)
        await send_file(scope, receive, send, opened)


async def post_files(
    scope: Scope, receive: Receive, send: Send, sandbox: EnvdSandbox, query: Mapping[str, str]
) -> None:
    """``POST /files``."""
    require_file_access(scope, sandbox, query, "write")
    path, user = query.get("path", ""), query.get("username") or sandbox.default_user
    async with transfers_of(sandbox).running():
        with _named(path, user):
            answer = await receive_files(scope, receive, sandbox.guest, path, user)
    await respond_json(send, 200, answer)


async def post_compose(receive: Receive, send: Send, sandbox: EnvdSandbox) -> None:
    """``POST /files/compose``; the access token has been checked."""
    body = json_object(await read_body(receive, _BODY_LIMIT))
    sources, destination, user = body.get("source_paths"), body.get("destination"), body.get("username")
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise InvalidInput("source_paths must be a list of paths", field="source_paths")
    if not isinstance(destination, str) or not isinstance(user, str | None):
        raise InvalidInput("destination must be a path, and username a name", field="destination")
    name = user or sandbox.default_user
    async with transfers_of(sandbox).running():
        with _named(destination, name):
            answer = await compose(sandbox.guest, sources, destination, name)
    await respond_json(send, 200, answer)


def json_object(body: bytes) -> dict[str, object]:
    """A request body that must be a JSON object; raises ``InvalidInput``."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput("the request body must be a JSON object")
    return value


@contextmanager
def _named(path: str, user: str) -> Iterator[None]:
    """Give failures the texts that clients know."""
    if "\0" in path:
        raise InvalidInput("a path cannot contain a NUL character", field="path")
    try:
        yield
    except NotFound as error:
        raise NotFound(f"path '{path}' does not exist") from error
    except Unauthenticated as error:
        raise UnknownUser(user) from error
