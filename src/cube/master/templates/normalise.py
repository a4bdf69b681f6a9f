"""The last touches that make any tree the root of a sandbox."""

from __future__ import annotations

import os
import stat

from cube.master.templates.tree import Tree, make_directory

#: Directories that the runtime mounts on or that programs take for granted, and their modes.
_DIRECTORIES = {
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
    "var/tmp": 0o1777,
}
#: What a running system fills by itself.
_EMPTIED = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "var/cache/apt", "var/lib/apt/lists")
#: Made anew for every sandbox at its start; as a link they would lead to a service that does not run.
_PER_SANDBOX = ("etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf")


def normalise(tree: Tree) -> None:
    """Empty what belongs to a running system, and have plain files and directories where the runtime mounts."""
    for path, mode in _DIRECTORIES.items():
        _have_directory(tree, path, mode)
    for path in _EMPTIED:
        tree.empty(path)
    for path in _PER_SANDBOX:
        tree.write(path, b"")
    tree.remove("var/lib/dbus/machine-id")
    _forget_logs(tree)


def _have_directory(tree: Tree, path: str, mode: int) -> None:
    """A link to a directory inside the tree is fine; anything else is replaced by a directory."""
    try:
        with tree.directory(path):
            return
    except OSError:
        tree.remove(path)
        with tree.parent(path) as (fd, name):
            make_directory(fd, name, mode)


def _forget_logs(tree: Tree) -> None:
    """Remove log files, keep the directories that programs expect."""
    found = tree.stat("var/log")
    if found is None or not stat.S_ISDIR(found.st_mode):
        return
    with tree.directory("var/log") as top:
        for _, _, names, fd in os.fwalk(".", dir_fd=top):
            for name in names:
                os.unlink(name, dir_fd=fd)
