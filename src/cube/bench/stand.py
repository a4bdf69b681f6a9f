"""Where a benchmark is run: the service, a client of it, and room for files."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cube.bench.client import Client
from cube.bench.load import Bars
from cube.settings import Settings


@dataclass(frozen=True, slots=True)
class Stand:
    """What every benchmark is given."""

    settings: Settings
    client: Client
    #: Empty at first, removed in the end.
    workspace: Path
    bars: Bars


@asynccontextmanager
async def stand(settings: Settings, bars: Bars) -> AsyncIterator[Stand]:
    """A stand at the running service of these settings."""
    with tempfile.TemporaryDirectory(prefix="cube-bench-") as workspace:
        async with Client(settings.public_url, settings.api_key) as client:
            yield Stand(settings, client, Path(workspace), bars)
