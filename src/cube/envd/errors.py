"""The one place that turns failures into what E2B's clients expect: Connect errors and REST bodies.

The clients look at codes, and in a few places at texts ("file not found: …"); both are wire facts of envd.
"""

from __future__ import annotations

from types import TracebackType

import structlog
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from cube.model.errors import (
    Conflict,
    CubeError,
    InvalidInput,
    KeyReused,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    SandboxNotFound,
    SandboxNotRunning,
    StorageFull,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

INTERNAL_ERROR = "the service made a mistake; its log has the details"

log = structlog.get_logger(__name__)

_CODES: dict[type[CubeError], Code] = {
    InvalidInput: Code.INVALID_ARGUMENT,
    Unauthenticated: Code.UNAUTHENTICATED,
    PermissionDenied: Code.PERMISSION_DENIED,
    NotFound: Code.NOT_FOUND,
    Conflict: Code.FAILED_PRECONDITION,
    KeyReused: Code.INVALID_ARGUMENT,
    Unsupported: Code.UNIMPLEMENTED,
    LimitExceeded: Code.RESOURCE_EXHAUSTED,
    Unavailable: Code.UNAVAILABLE,
    StorageFull: Code.RESOURCE_EXHAUSTED,
}


class FileNotFound(NotFound):
    """No file has this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"file not found: {path}")


class AlreadyExists(Conflict):
    """Something has this path already."""


class ProcessNotFound(NotFound):
    """No process that was started here has this pid or tag."""

    def __init__(self, selector: str, value: int | str) -> None:
        super().__init__(f"process with {selector} {value} not found")


class UnknownUser(Unauthenticated):
    """The sandbox has no such user."""

    def __init__(self, user: str) -> None:
        super().__init__(f"invalid username: '{user}'")


_CODES[AlreadyExists] = Code.ALREADY_EXISTS


def connect_code(error: CubeError) -> Code:
    """The Connect code of the closest ancestor that has one, ``INTERNAL`` when none has."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), Code.INTERNAL)


def connect_error(error: CubeError) -> ConnectError:
    """What goes over the wire for an error of ours."""
    return ConnectError(connect_code(error), error.message)


class connect_errors:
    """Turn the ``CubeError`` or ``TimeoutError`` that leaves the block into a Connect error.

    Any other exception is a fault of ours: it is logged, and the client learns no more than that.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, CubeError):
            raise connect_error(error) from error
        if isinstance(error, TimeoutError):
            raise ConnectError(Code.DEADLINE_EXCEEDED, "the time limit of the request is over") from error
        if isinstance(error, Exception) and not isinstance(error, ConnectError):
            log.error("answering an RPC failed", exc_info=error)
            raise ConnectError(Code.INTERNAL, INTERNAL_ERROR) from error


def rest_body(status: int, message: str) -> dict[str, object]:
    """The body of every failed REST request; ``code`` repeats the status because clients read it there."""
    return {"code": status, "message": message}


def sandbox_gone(error: SandboxNotFound | SandboxNotRunning) -> tuple[int, dict[str, object]]:
    """Status and body on any port of a sandbox that does not run; clients compare the text.

    502 is E2B's answer for one that has ended or is paused, 404 ours for an id that never was.
    """
    code = 404 if isinstance(error, SandboxNotFound) else 502
    return code, {"sandboxId": error.sandbox_id, "message": "The sandbox was not found", "code": code}
