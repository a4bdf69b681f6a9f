"""What a definition adds to a tree made of Debian packages."""

from __future__ import annotations

import re
from pathlib import Path

from cube.master.templates import apt, debian_packages, python_packages
from cube.master.templates.chroot import run_inside
from cube.master.templates.definition import Command, Definition, User
from cube.master.templates.process import in_thread
from cube.master.templates.progress import Meter, Phase
from cube.master.templates.tree import Tree
from cube.model.errors import InvalidInput

_DPKG_STATUS = "var/lib/dpkg/status"
_MAX_STATUS = 32 << 20
_MAX_PASSWD = 1 << 20


async def customise(definition: Definition, tree: Path, meter: Meter) -> None:
    """Add users, files, Debian and Python packages, remove files, compile, run commands, in this order."""
    for user in definition.users:
        await _add_user(tree, user)
    with Tree(tree) as files:
        for file in definition.files:
            files.write(file.path.strip("/"), file.content.encode(), file.mode)
    if definition.packages:
        await debian_packages.install(tree, definition.packages, meter)
    if definition.python:
        await python_packages.install(tree, definition.python, apt.architecture(), meter)
    await in_thread(lambda _: _remove(tree, definition.remove))
    if definition.python:
        await python_packages.compile_library(tree, meter)
    for command in definition.run:
        meter(Phase.CUSTOMISE, 0.95, f"running {command.argv[0]}")
        await _run_command(tree, command)


async def _add_user(tree: Path, user: User) -> None:
    options = ["--create-home", "--user-group", "--shell", "/bin/bash", "--uid", str(user.uid)]
    await run_inside(tree, ["useradd", *options, "--", user.name])


async def _run_command(tree: Path, command: Command) -> None:
    with Tree(tree) as files:
        uid, home = _account(files, command.user)
    await run_inside(tree, command.argv, uid=uid, home=home)


def _account(files: Tree, name: str) -> tuple[int, str]:
    """User id and home directory (passwd(5)); raises ``InvalidInput`` for an unknown user."""
    for line in files.read("etc/passwd", _MAX_PASSWD).decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) == 7:
            return int(fields[2]), fields[5]
    raise InvalidInput(f"the template has no user {name!r}", field="run")


def _remove(tree: Path, patterns: tuple[str, ...]) -> None:
    with Tree(tree) as files:
        for pattern in patterns:
            for path in sorted(tree.glob(pattern)):
                files.remove(str(path.relative_to(tree)))


def dpkg_packages(files: Tree) -> dict[str, str]:
    """Installed Debian packages and their versions; empty for a tree that is not a Debian."""
    try:
        text = files.read(_DPKG_STATUS, _MAX_STATUS).decode(errors="replace")
    except (OSError, InvalidInput):
        return {}
    stanzas = [dict(re.findall(r"^(Package|Status|Version): (.*)$", part, re.MULTILINE)) for part in text.split("\n\n")]
    return {
        stanza["Package"]: stanza.get("Version", "")
        for stanza in stanzas
        if stanza.get("Status") == "install ok installed" and "Package" in stanza
    }
