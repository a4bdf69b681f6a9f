from __future__ import annotations

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from cube.envd.errors import AlreadyExists, FileNotFound, ProcessNotFound, UnknownUser, connect_code, connect_errors
from cube.model import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x"), Code.INVALID_ARGUMENT),
        (errors.Unauthenticated("x"), Code.UNAUTHENTICATED),
        (errors.PermissionDenied("x"), Code.PERMISSION_DENIED),
        (errors.NotFound("x"), Code.NOT_FOUND),
        (errors.Conflict("x"), Code.FAILED_PRECONDITION),
        (AlreadyExists("x"), Code.ALREADY_EXISTS),
        (errors.KeyReused("x"), Code.INVALID_ARGUMENT),
        (errors.Unsupported("x"), Code.UNIMPLEMENTED),
        (errors.LimitExceeded("x"), Code.RESOURCE_EXHAUSTED),
        (errors.Unavailable("x"), Code.UNAVAILABLE),
        (errors.SandboxNotRunning("i1", "paused"), Code.UNAVAILABLE),
        (errors.StorageFull("x"), Code.RESOURCE_EXHAUSTED),
        (errors.HostError("x"), Code.INTERNAL),
    ],
)
def test_codes(error: errors.CubeError, code: Code) -> None:
    assert connect_code(error) is code


def test_every_error_of_the_tree_is_considered() -> None:
    """A new branch of the tree must be given a code; only the root and HostError are internal.

    Errors that other modules make for themselves never reach a client of the agent.
    """
    for kind in errors.CubeError.__subclasses__():
        if kind is not errors.HostError and kind.__module__ == errors.__name__:
            assert connect_code(kind.__new__(kind)) is not Code.INTERNAL, kind


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFound("/x"), "file not found: /x"),
        (UnknownUser("x"), "invalid username: 'x'"),
        (ProcessNotFound("pid", 7), "process with pid 7 not found"),
        (ProcessNotFound("tag", "t"), "process with tag t not found"),
    ],
)
def test_texts_that_clients_know(error: errors.CubeError, text: str) -> None:
    with pytest.raises(ConnectError) as caught, connect_errors():
        raise error
    assert caught.value.message == text


def test_a_time_limit_is_a_deadline() -> None:
    with pytest.raises(ConnectError) as caught, connect_errors():
        raise TimeoutError
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_faults_of_ours_tell_nothing() -> None:
    with pytest.raises(ConnectError) as caught, connect_errors():
        raise OSError(2, "No such file", "/var/lib/cube/secret")
    assert caught.value.code is Code.INTERNAL
    assert "secret" not in caught.value.message
