"""The file that says which build of the outbound proxy was started last: readable while the service is away."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from cube.build_info import Build, build


def write(path: Path) -> None:
    """Say that this build is started. Raises ``OSError``."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(asdict(build())) + "\n", encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> Build | None:
    """What the file says; ``None`` when there is none, or none that can be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Build(*(str(told[name]) for name in ("version", "commit", "build_time")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
