"""Environments with one version of a client each, as their users install them; kept between runs.

Each is a directory of ``tests/e2e/clients/environments``: ``requirements.lock`` makes a virtual environment,
``package-lock.json`` a directory with node modules. ``python -m support.client_environments`` makes them all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEFINITIONS = Path(__file__).parents[1] / "e2e/clients/environments"
#: Kept between test runs: making all of them takes a minute.
CACHE = Path(os.environ.get("CUBE_TEST_CLIENTS", "/var/cache/cube-test-clients"))


def names(lock: str) -> list[str]:
    """Names of the environments that have such a lock file."""
    return sorted(path.parent.name for path in DEFINITIONS.glob(f"*/{lock}"))


PYTHON = names("requirements.lock")
NODE = names("package-lock.json")


def python(name: str) -> Path:
    """The interpreter of an environment, which is made when it is not there."""
    return _made(name, "requirements.lock", _virtual_environment) / "bin/python"


def node(name: str) -> Path:
    """A directory with ``node_modules``, which is made when it is not there."""
    return _made(name, "package-lock.json", _node_modules)


def _made(name: str, lock: str, make: Callable[[Path, Path], None]) -> Path:
    """What ``make`` makes of a lock file, once for each content of it."""
    source = DEFINITIONS / name / lock
    digest = hashlib.sha256(source.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = CACHE / f"{name}-{digest}"
    done = place / ".done"
    with _locked(CACHE / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            make(source, place)
            done.touch()
    return place


def _virtual_environment(lock: Path, place: Path) -> None:
    base = sys._base_executable  # type: ignore[attr-defined]
    subprocess.run([base, "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--requirement", lock], check=True)


def _node_modules(lock: Path, place: Path) -> None:
    place.mkdir(parents=True)
    for name in ("package.json", lock.name):
        shutil.copy(lock.with_name(name), place)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=place, check=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for environment in PYTHON:
        print(python(environment))
    for environment in NODE:
        print(node(environment))
