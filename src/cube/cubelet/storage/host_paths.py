"""Directories of the host that sandboxes may ask for: those below the prefixes of the settings.

The prefix is the operator's and is opened as it stands. Everything below it may have been written by a sandbox, so the
rest of the path is resolved by the kernel, which keeps it inside the prefix.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from cube.cubelet.storage.openat2 import open_beneath
from cube.model.errors import HostError, InvalidInput
from cube.model.mounts import below

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_REASONS = {
    errno.EXDEV: "leads out of the allowed directories",
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "is not a directory",
    errno.ELOOP: "goes round in circles",
    errno.ENAMETOOLONG: "is too long",
}


class HostPaths:
    """The allowed directories."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = prefixes

    def open(self, path: str, *, field: str) -> int:
        """An ``O_PATH`` descriptor of a directory of the host, named by its clean path. Blocks.

        Raises ``InvalidInput``, which names ``field``, when it is not allowed or not there.
        """
        prefix = self._prefix(path, field)
        try:
            root = os.open(prefix, _FLAGS)
        except OSError as error:
            raise InvalidInput(f"{field}: {prefix} is allowed but not there on this node", field=field) from error
        try:
            return open_beneath(root, path[len(prefix) :].lstrip("/"), _FLAGS, follow=True)
        except OSError as error:
            raise _refusal(error, path, field) from error
        finally:
            os.close(root)

    def _prefix(self, path: str, field: str) -> str:
        """The longest of the prefixes that the path lies in."""
        matching = [prefix for prefix in self._prefixes if below(path, prefix)]
        if not matching:
            allowed = ", ".join(self._prefixes)
            raise InvalidInput(f"{field}: hostPath must be under one of [{allowed}]", field=field)
        return max(matching, key=len)


def _refusal(error: OSError, path: str, field: str) -> InvalidInput | HostError:
    reason = _REASONS.get(error.errno or 0)
    if reason is None:
        return HostError(f"{path} could not be opened: {error.strerror}")
    return InvalidInput(f"{field}: hostPath {path} {reason}", field=field)
