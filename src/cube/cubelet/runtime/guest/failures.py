"""What an ``ERROR`` of process 1 means to the caller: from error numbers to the tree of ``cube.model.errors``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from enum import IntEnum

from cube.cubelet.runtime.guest.wire import Failure
from cube.model.errors import (
    Conflict,
    CubeError,
    HostError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    StorageFull,
    Unauthenticated,
    Unavailable,
)


class Stage(IntEnum):
    """Where a request failed; numbers of the protocol."""

    USER = 1
    CWD = 2
    EXEC = 3
    PATH = 4
    RESOURCES = 5


_BY_ERRNO: dict[int, Callable[[str], CubeError]] = {
    errno.ENOENT: NotFound,
    errno.ESRCH: NotFound,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.EEXIST: Conflict,
    errno.ENOTEMPTY: Conflict,
    errno.EBUSY: Conflict,
    errno.ETXTBSY: Conflict,
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
    errno.EFBIG: StorageFull,
    errno.EAGAIN: LimitExceeded,
    errno.EMFILE: LimitExceeded,
    errno.ENFILE: LimitExceeded,
    errno.ENOMEM: LimitExceeded,
    errno.EOVERFLOW: LimitExceeded,
    errno.ETIMEDOUT: Unavailable,
    errno.ENOTDIR: InvalidInput,
    errno.EISDIR: InvalidInput,
    errno.EINVAL: InvalidInput,
    errno.ENAMETOOLONG: InvalidInput,
    errno.ELOOP: InvalidInput,
    errno.EXDEV: InvalidInput,
    errno.ENXIO: InvalidInput,
    errno.E2BIG: InvalidInput,
    errno.ENOEXEC: InvalidInput,
}


def error_of(failure: Failure, *, user: str, path: str, cwd: str = "") -> CubeError:
    """The exception for a failed request; ``path`` is the file or the program that it was about."""
    if failure.stage == Stage.USER:
        return _user_error(failure, user)
    if failure.stage == Stage.CWD:
        return _cwd_error(failure, cwd)
    if failure.stage == Stage.RESOURCES:
        return _resource_error(failure)
    kind = _BY_ERRNO.get(failure.errno, HostError)
    if failure.stage == Stage.EXEC:
        return kind(f"program {path!r} cannot be executed: {_reason(failure)}")
    return kind(f"path {path!r}: {_reason(failure)}")


def _user_error(failure: Failure, user: str) -> CubeError:
    if failure.errno in (errno.ESRCH, errno.EINVAL):
        return Unauthenticated(f"invalid username: {user!r}")
    return _BY_ERRNO.get(failure.errno, HostError)(f"cannot become user {user!r}: {_reason(failure)}")


def _cwd_error(failure: Failure, cwd: str) -> CubeError:
    if failure.errno == errno.ENOENT:
        return InvalidInput(f"cwd {cwd!r} does not exist", field="cwd")
    if failure.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"cwd {cwd!r}: {_reason(failure)}")
    return InvalidInput(f"cwd {cwd!r}: {_reason(failure)}", field="cwd")


def _resource_error(failure: Failure) -> CubeError:
    if failure.errno == errno.ETIMEDOUT:
        return Unavailable("the sandbox could not carry this out in time; try again")
    if failure.errno in (errno.EIO, errno.ENOMEM):
        return LimitExceeded("the sandbox ran out of memory over this; free some and try again")
    if failure.errno in (errno.EAGAIN, errno.EMFILE, errno.ENFILE):
        return LimitExceeded("the sandbox has too many processes, open files or watches; end some and try again")
    return _BY_ERRNO.get(failure.errno, HostError)(f"the sandbox could not carry this out: {_reason(failure)}")


def _reason(failure: Failure) -> str:
    return os.strerror(failure.errno).lower()
