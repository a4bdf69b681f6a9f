"""A new Debian system as a directory tree, by mmdebstrap."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cube.master.templates import apt
from cube.master.templates.definition import DebianSource
from cube.master.templates.process import ISOLATED, run
from cube.master.templates.progress import Meter, Phase
from cube.master.templates.tree import Tree
from cube.model.errors import HostError

#: Options of dpkg. What nobody reads in a sandbox is not unpacked; copyright files stay.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    # A build that is cut off starts anew: waiting for the disk after every file protects nothing.
    "force-unsafe-io",
)
#: Beginnings of mmdebstrap's messages, and how much is done when they come.
_MILESTONES = (
    ("running apt-get update", 0.02, "reading package lists"),
    ("downloading packages", 0.15, "downloading packages"),
    ("extracting archives", 0.3, "unpacking the essential packages"),
    ("installing essential packages", 0.4, "installing the essential packages"),
    ("installing remaining packages", 0.5, "installing packages"),
    ("cleaning package lists", 0.95, "cleaning up"),
)


def suite_of(source: DebianSource) -> str:
    """The release that ``source`` means on this machine."""
    return source.suite or apt.host_suite()


async def bootstrap(source: DebianSource, tree: Path, meter: Meter) -> None:
    """Install the packages of ``source`` into the new directory ``tree``; raises ``HostError`` when apt cannot."""
    if shutil.which("mmdebstrap") is None:
        raise HostError("mmdebstrap is not installed: apt-get install mmdebstrap")
    suite = suite_of(source)
    repositories = apt.main_repositories(suite)
    settings = write_settings(tree.parent, repositories)
    await run(_command(source, suite, tree, settings), on_line=lambda line: _milestone(line, meter))
    with Tree(tree) as files:
        _leave_clean(files, repositories)


def write_settings(directory: Path, repositories: list[apt.Repository]) -> tuple[Path, Path]:
    """The machine's apt settings as private files: on a command line everybody could read a mirror's password."""
    sources, options = directory / "sources.list", directory / "apt.conf"
    # APT::Sandbox::User: apt's unprivileged user cannot reach a private directory.
    lines = [*apt.options(), 'APT::Sandbox::User "root";', 'APT::Install-Recommends "false";']
    for path, content in ((sources, [entry.line() for entry in repositories]), (options, lines)):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(content) + "\n")
    return sources, options


def _command(source: DebianSource, suite: str, tree: Path, settings: tuple[Path, Path]) -> list[str]:
    sources, options = settings
    command = [*ISOLATED, "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
    command += [f"--architectures={apt.architecture()}", f"--aptopt={options}"]
    command += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    command += [f"--include={','.join(source.packages)}"] if source.packages else []
    # Without a mirror mmdebstrap takes Debian's own; that is right for a machine that is not a Debian.
    return [*command, suite, str(tree), *([str(sources)] if sources.stat().st_size > 1 else [])]


def _milestone(line: str, meter: Meter) -> None:
    for text, part, message in _MILESTONES:
        if text in line:
            meter(Phase.SOURCE, part, message)


def _leave_clean(files: Tree, repositories: list[apt.Repository]) -> None:
    """Take the machine's settings out of the tree; packages can still be installed from the same archives."""
    files.remove("etc/apt/apt.conf.d/99mmdebstrap")
    if repositories:
        lines = "".join(f"{entry.public_line()}\n" for entry in repositories)
        files.write("etc/apt/sources.list", lines.encode())
        files.empty("etc/apt/sources.list.d")
