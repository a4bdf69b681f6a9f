"""A file on its way into a volume: nobody sees it before it is whole, and nothing stays of one that is cut off."""

from __future__ import annotations

import ctypes
import os
import secrets
import stat
from contextlib import ExitStack, suppress

from cube.cubelet.volumes.places import clean, opened, split
from cube.cubelet.volumes.tree import FILE_MODE, FILES, INCOMING, VolumeTree
from cube.model.errors import Conflict, InvalidInput
from cube.model.volumes import Attributes, VolumeEntry

_NOREPLACE = 1  # <linux/fs.h>
_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


class Upload:
    """:meth:`begin`, fill :attr:`fd`, :meth:`finish`; :meth:`close` in any case. All of them block.

    Raises what :class:`VolumeTree` raises.
    """

    def __init__(self, tree: VolumeTree, path: str, wish: Attributes, *, force: bool) -> None:
        """``force`` replaces what is there and makes missing directories."""
        self._tree = tree
        self._path = clean(path)
        self._wish = wish
        self._force = force
        self._held = ExitStack()
        self._name = ""
        self._parent = self._incoming = -1
        #: Where the content goes.
        self.fd = -1

    def begin(self) -> None:
        """Open a file that nobody sees, in a place from which one rename takes it to where it belongs."""
        directory, self._name = split(self._path)
        if not self._name:
            raise InvalidInput("path must be that of a file", field="path")
        root = self._held.enter_context(self._tree.part(FILES))
        parent = self._tree.parent(root, directory, self._wish, parents=self._force)
        self._parent = self._held.enter_context(opened(parent))
        self._refuse_what_is_there()
        self._incoming = self._held.enter_context(self._tree.part(INCOMING))
        self._open_draft()

    def _open_draft(self) -> None:
        self._draft = secrets.token_hex(12)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(self._draft, flags, 0o600, dir_fd=self._incoming)
        self._held.callback(self._discard)

    def _discard(self) -> None:
        os.close(self.fd)
        with suppress(FileNotFoundError):  # it has arrived
            os.unlink(self._draft, dir_fd=self._incoming)

    def _refuse_what_is_there(self) -> None:
        """Before the content is taken in; what comes into being later is found by :meth:`finish`."""
        try:
            found = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise self._is_directory()
        if not self._force:
            raise self._exists()

    def finish(self) -> VolumeEntry:
        """Have the content on the disk, then let the file appear, complete."""
        self._tree.give(self.fd, self._wish, FILE_MODE)
        os.fdatasync(self.fd)
        try:
            _rename(self._incoming, self._draft, self._parent, self._name, 0 if self._force else _NOREPLACE)
        except FileExistsError:
            raise self._exists() from None
        except IsADirectoryError:
            raise self._is_directory() from None
        return self._tree.describer.of(self.fd, self._path)

    def close(self) -> None:
        """Let go of everything, and remove a file that has not arrived."""
        self._held.close()

    def _exists(self) -> Conflict:
        return Conflict(f"path {self._path} exists already: `force` replaces it")

    def _is_directory(self) -> Conflict:
        return Conflict(f"path {self._path} is a directory")


def _rename(source: int, old: str, destination: int, new: str, flags: int) -> None:
    if _libc.renameat2(source, os.fsencode(old), destination, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)
