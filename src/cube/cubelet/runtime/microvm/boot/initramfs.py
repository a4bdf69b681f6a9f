"""The first file system of a guest: cube-init, the modules that it loads, and directories to mount on."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from cube.cubelet.runtime.microvm.boot.cpio import Member, archive, directory
from cube.cubelet.runtime.microvm.boot.modules import Module

_DIRECTORIES = ("dev", "proc", "sys", "modules", "tmp")


def initramfs(cube_init: bytes, modules: Sequence[Module]) -> bytes:
    """The archive, not packed: unpacking would cost more than reading it."""
    members = [directory(name) for name in _DIRECTORIES]
    members.append(Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    members.append(Member("init", stat.S_IFREG | 0o755, cube_init))
    members += [Member(f"modules/{module.name}", stat.S_IFREG | 0o600, module.content) for module in modules]
    order = "".join(f"{module.name}\n" for module in modules)
    members.append(Member("modules/order", stat.S_IFREG | 0o600, order.encode()))
    return archive(members)
