"""Which build this is: version, commit and time. A package has them written down, a checkout asks git."""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cube import __version__

#: Put into packages by ``hatch_build.py``.
_FILE = Path(__file__).parent / "build.json"
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Build:
    """What a running part says about where it comes from."""

    version: str
    #: Of the sources; ``unknown`` where neither a package nor git says.
    commit: str = _UNKNOWN
    #: ISO 8601, of the package or else of the commit.
    build_time: str = _UNKNOWN


@functools.cache
def build() -> Build:
    """This build."""
    try:
        written = json.loads(_FILE.read_text(encoding="utf-8"))
        return Build(__version__, str(written["commit"]), str(written["build_time"]))
    except (FileNotFoundError, ValueError, KeyError):
        return Build(__version__, *_from_git())


def _from_git() -> tuple[str, str]:
    # The directory may be somebody else's than this process's user; nothing is run from it.
    command = ["git", "-c", "safe.directory=*", "-C", str(_FILE.parent), "log", "-1", "--format=%H %cI"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
        commit, _, moment = done.stdout.strip().partition(" ")
    except (OSError, subprocess.SubprocessError):
        return _UNKNOWN, _UNKNOWN
    return (commit, moment) if moment else (_UNKNOWN, _UNKNOWN)
