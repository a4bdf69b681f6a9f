"""Python packages in a tree: fetched on the host, installed inside it without network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from cube.master.templates.chroot import run_inside
from cube.master.templates.process import run
from cube.master.templates.progress import Meter, Phase
from cube.master.templates.tree import Tree
from cube.model.errors import HostError, InvalidInput

#: Newest glibc whose wheels are looked for: that of Debian 12. Later releases run them too.
_GLIBC_MINOR = 36
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: Where Debian's Python keeps what is installed by hand, and its interpreter's own library.
_LIBRARY = "usr/local/lib/{python}/dist-packages"


def python_version(tree: Tree) -> str:
    """Version of the tree's Python as ``3.N``; raises ``InvalidInput`` without one."""
    try:
        with tree.directory("usr/lib") as fd:
            found = [match[1] for name in os.listdir(fd) if (match := re.fullmatch(r"python(3\.\d+)", name))]
    except FileNotFoundError:
        found = []
    if len(found) != 1:
        raise InvalidInput("python packages need exactly one python3 in the template", field="python")
    return str(found[0])


async def install(tree: Path, requirements: tuple[str, ...], architecture: str, meter: Meter) -> None:
    """Install ``requirements`` for everybody, uncompiled; raises ``HostError`` when pip cannot."""
    with Tree(tree) as files:
        version = python_version(files)
    wheels = tree.parent / "wheels"
    wheels.mkdir()
    meter(Phase.CUSTOMISE, 0.1, "fetching python packages")
    await run(
        [*_pip(), "download", "--dest", str(wheels), *_target(version, architecture), "--", *requirements],
        on_line=lambda line: _fetched(line, meter),
    )
    meter(Phase.CUSTOMISE, 0.4, "installing python packages")
    await run_inside(tree, _install_command(requirements), shown=wheels)
    shutil.rmtree(wheels)


async def compile_library(tree: Path, meter: Meter) -> None:
    """Make bytecode of everything that :func:`install` has put there."""
    meter(Phase.CUSTOMISE, 0.6, "compiling python packages")
    with Tree(tree) as files:
        library = _LIBRARY.format(python=f"python{python_version(files)}")
    await run_inside(tree, ["python3", "-m", "compileall", "-q", "-j", "0", f"/{library}"])


def _pip() -> list[str]:
    """pip of this interpreter, so that it is there wherever we are, with the machine's own configuration."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    program = shutil.which("pip3")
    if program is None:
        raise HostError("pip is not installed: apt-get install python3-pip")
    return [program, "--disable-pip-version-check", "--no-input"]


def _target(version: str, architecture: str) -> list[str]:
    """Options that make pip choose wheels for the tree, not for the host."""
    machine = _MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC_MINOR, 4, -1)]
    platforms += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
    return options + [f"--platform={name}" for name in platforms]


def _install_command(requirements: tuple[str, ...]) -> list[str]:
    options = ["--no-index", "--find-links=/mnt", "--no-compile", "--no-cache-dir", "--break-system-packages"]
    quiet = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-warn-script-location"]
    return ["python3", "-m", "pip", "install", *options, *quiet, "--", *requirements]


def _fetched(line: str, meter: Meter) -> None:
    words = line.split()
    if words and words[0] in ("Collecting", "Processing", "Downloading", "Saved"):
        meter(Phase.CUSTOMISE, 0.1, f"fetching {words[1].rpartition('/')[2]}" if len(words) > 1 else "fetching")


def installed(tree: Tree) -> list[str]:
    """Names and versions of what is installed for Debian's Python by hand, as ``name-version``, in order."""
    try:
        with tree.directory(_LIBRARY.format(python=f"python{python_version(tree)}")) as fd:
            return sorted(name.removesuffix(".dist-info") for name in os.listdir(fd) if name.endswith(".dist-info"))
    except (OSError, InvalidInput):
        return []
