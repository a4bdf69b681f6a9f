"""Debian packages for a tree that is there already: fetched on the host, installed inside it without network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from cube.master.templates import apt
from cube.master.templates.chroot import run_inside
from cube.master.templates.debian import DPKG_OPTIONS, write_settings
from cube.master.templates.process import run
from cube.master.templates.progress import Meter, Phase
from cube.master.templates.tree import Tree
from cube.model.errors import HostError, InvalidInput

_MAX_RELEASE = 64 * 1024
_STATUS = "var/lib/dpkg/status"
#: Run inside, where the packages are at /mnt. Services that a package would start have no business in a tree. Some
#: packages (Java's) fail without the directory of manual pages, which are not unpacked.
_INSTALL = """
mkdir -p /usr/share/man/man1
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
DEBIAN_FRONTEND=noninteractive dpkg "$@" --install /mnt/*.deb
rm /usr/sbin/policy-rc.d
"""


async def install(tree: Path, packages: tuple[str, ...], meter: Meter) -> None:
    """Install ``packages`` and what they depend on, as far as the tree lacks it; raises ``HostError`` when apt cannot,
    ``InvalidInput`` for a tree that is no Debian."""
    place = tree.parent / "packages"
    place.mkdir()
    meter(Phase.CUSTOMISE, 0.02, "fetching packages")
    archives = await _fetch(tree, packages, place)
    if any(archives.glob("*.deb")):
        meter(Phase.CUSTOMISE, 0.05, "installing packages")
        options = [f"--{option}" for option in DPKG_OPTIONS]
        await run_inside(tree, ["sh", "-euc", _INSTALL, "sh", *options], shown=archives)
    shutil.rmtree(place)


async def _fetch(tree: Path, packages: tuple[str, ...], place: Path) -> Path:
    with Tree(tree) as files:
        suite = _suite(files)
    repositories = apt.main_repositories(suite)
    if not repositories:
        raise HostError(f"this machine has no package source for Debian {suite}: packages cannot be added")
    sources, options = write_settings(place, repositories)
    for directory in ("lists/partial", "archives/partial"):
        (place / directory).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": "-",
        "Dir::State::status": str(tree / _STATUS),
        "Dir::State::Lists": f"{place}/lists",
        "Dir::Cache::Archives": f"{place}/archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Architecture": apt.architecture(),
        "APT::Architectures": apt.architecture(),
    }
    command = ["apt-get", "--quiet", "--yes", *(f"--option={name}={value}" for name, value in settings.items())]
    environment = {"APT_CONFIG": str(options)}
    await run([*command, "update"], env=environment)
    wanted = ["install", "--no-install-recommends", "--download-only", "--", *packages]
    await run([*command, *wanted], env=environment)
    return place / "archives"


def _suite(files: Tree) -> str:
    """Code name of the release that a tree is; raises ``InvalidInput``."""
    try:
        text = files.read("usr/lib/os-release", _MAX_RELEASE).decode(errors="replace")
    except FileNotFoundError:
        text = ""
    found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)\"?$", text, re.MULTILINE)
    if found is None:
        raise InvalidInput("packages can only be added to a Debian system", field="packages")
    return found[1]
