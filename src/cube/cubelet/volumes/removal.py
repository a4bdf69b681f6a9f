"""Removing whole trees that somebody may still write into, however deep and wide they are.

A tree is first taken aside by one rename, which is when it is gone for everybody who comes by its name. What is in it
is then removed from the top: a directory that is not empty is brought up beside its parent, so that neither memory nor
open descriptors grow with the tree, and nothing is reached through more than one name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from contextlib import suppress

from cube.cubelet.storage.openat2 import open_beneath
from cube.cubelet.volumes.places import opened

_LISTABLE = os.O_RDONLY | os.O_DIRECTORY
#: Seconds after which the rest is left to the next time: a process inside may add faster than this removes.
_PATIENCE = 60.0
#: How deep a tree is removed in its place, each level with a descriptor.
_SHALLOW = 32


def take_aside(directory: int, name: str, aside: int) -> None:
    """Move an entry of a directory to where nobody in a sandbox looks: into ``aside``, under a new name."""
    os.rename(name, secrets.token_hex(12), src_dir_fd=directory, dst_dir_fd=aside)


def remove(directory: int, name: str, aside: int) -> None:
    """Remove an entry of a directory and all that is in it. It is gone at once for those who come by its name."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)
        return
    try:
        take_aside(directory, name, aside)
    except OSError as error:
        if error.errno not in (errno.EDQUOT, errno.ENOSPC):
            raise
        # In a full file system there is no room for another name, but always enough to take one away.
        _thin_out(directory, name, _SHALLOW)
        take_aside(directory, name, aside)
    clear(aside)


def _thin_out(directory: int, name: str, depth: int) -> None:
    """Remove what is in a directory where it stands, so far down."""
    with opened(open_beneath(directory, name, _LISTABLE)) as inner, os.scandir(inner) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=inner)
                elif depth:
                    _thin_out(inner, entry.name, depth - 1)
                    os.rmdir(entry.name, dir_fd=inner)


def clear(aside: int) -> None:
    """Remove everything that was taken aside, by whomever. Several at once do not disturb each other."""
    deadline = time.monotonic() + _PATIENCE
    while _remove_all(aside) and time.monotonic() < deadline:
        pass


def _remove_all(aside: int) -> int:
    """Remove the entries that are files or empty directories, take the others apart; returns how many there were."""
    count = 0
    with opened(open_beneath(aside, ".", _LISTABLE)) as listing, os.scandir(listing) as entries:
        for entry in entries:
            count += 1
            with suppress(FileNotFoundError):
                _remove(entry, aside)
    return count


def _remove(entry: os.DirEntry[str], aside: int) -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.name, dir_fd=aside)
        return
    try:
        os.rmdir(entry.name, dir_fd=aside)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        _take_apart(entry.name, aside)


def _take_apart(name: str, aside: int) -> None:
    """Empty a directory by one level."""
    with opened(open_beneath(aside, name, _LISTABLE)) as inner, os.scandir(inner) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    take_aside(inner, entry.name, aside)
                else:
                    os.unlink(entry.name, dir_fd=inner)
    with suppress(OSError):  # somebody has put something into it meanwhile: next time
        os.rmdir(name, dir_fd=aside)
