"""The one place where failures become HTTP answers: ``{"code", "message"}`` with the status as code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cube.api.schemas.base import respond
from cube.api.schemas.common import Error, VolumeError
from cube.model.errors import CubeError, HostError, InvalidInput, LimitExceeded, StorageFull, Unavailable

log = structlog.get_logger(__name__)

#: Validation problems that one message tells about, and how long a field's name may be in it.
_MOST_PROBLEMS = 3
_LONGEST_FIELD = 100

_MESSAGES = {
    404: "there is no such route: /docs shows those that there are",
    405: "this route does not know this method: /docs shows those that it knows",
}


def error_response(code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that failed."""
    return respond(Error(code=code, message=message), code, dict(headers or {}))


def volume_error_response(code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The same about the content of a volume, where the code is a text."""
    return respond(VolumeError(code=str(code), message=message), code, dict(headers or {}))


def error_body(error: CubeError) -> Error:
    """A failure as a part of an answer that is none."""
    return Error(code=error.code, message=_message(error))


Answer = Callable[[int, str, Mapping[str, str] | None], Response]


def install(app: FastAPI, answer: Answer = error_response) -> None:
    """Have the failures of ``app`` answered here, in the form that ``answer`` gives them."""
    handlers = _Handlers(answer)
    app.add_exception_handler(CubeError, handlers.failure)
    app.add_exception_handler(RequestValidationError, handlers.validation_error)
    app.add_exception_handler(HTTPException, handlers.failure)


def answer_to(error: CubeError | HTTPException, answer: Answer = error_response) -> Response:
    """The answer that tells of a failure."""
    if isinstance(error, HTTPException):
        return answer(error.status_code, _MESSAGES.get(error.status_code, error.detail), error.headers)
    if isinstance(error, HostError | StorageFull):
        log.error("api.failed", code=error.code, exc_info=error)
    return answer(error.code, _message(error), _retry_headers(error))


class _Handlers:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def failure(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, CubeError | HTTPException)  # noqa: S101  registered for these types only
        return answer_to(error, self._answer)

    def validation_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this type only
        return self._answer(400, "; ".join(_problems(error.errors())), None)


def _message(error: CubeError) -> str:
    if isinstance(error, InvalidInput) and error.field is not None and error.field not in error.message:
        return f"{error.field}: {error.message}"
    return error.message


def _retry_headers(error: CubeError) -> dict[str, str]:
    """E2B's clients repeat a 429 or 503 by themselves unless they are told that it is of no use."""
    if not isinstance(error, LimitExceeded | Unavailable):
        return {}
    if error.retry_after is None:
        return {"Should-Retry": "false"}
    return {"Should-Retry": "true", "Retry-After": str(error.retry_after)}


def _problems(errors: Sequence[Any]) -> list[str]:
    return [_problem(error) for error in errors[:_MOST_PROBLEMS]]


def _problem(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    place, *fields = error["loc"]
    if not fields:
        return f"{place}: {error['msg']} (is `Content-Type: application/json` set?)"
    return f"{'.'.join(str(field) for field in fields)[:_LONGEST_FIELD]}: {error['msg']}"
