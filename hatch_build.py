"""Writes into packages which commit they are made of, and when; see ``cube.build_info``."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildInfo(BuildHookInterface):  # type: ignore[type-arg]
    """For wheels; an editable one follows its checkout, which git knows about."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file ``cube/build.json``."""
        if version == "editable":
            return
        path = Path(self.directory) / "build.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"commit": _commit(self.root), "build_time": datetime.now(UTC).isoformat(timespec="seconds")}
        path.write_text(json.dumps(told), encoding="utf-8")
        build_data["force_include"][str(path)] = "cube/build.json"


def _commit(root: str) -> str:
    try:
        command = ["git", "-C", root, "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
