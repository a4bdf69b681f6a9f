"""What a client that asks again and again sees of a build that ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from cube.cubelet.agent import NodeAgent
from cube.master.builds.service import BuildService
from cube.master.sandboxes.background import Background
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.master.sandboxes.clock import SystemClock
from cube.master.store.store import Store
from cube.model.builds import BuildStatus
from cube.settings import Settings
from unit.master.test_build_store import BUILD, TEMPLATE
from unit.master.test_shelf import snapshot


async def test_a_build_is_not_ready_before_sandboxes_can_be_made_of_it(tmp_path: Path) -> None:
    result = snapshot(1)
    node = cast(NodeAgent, SimpleNamespace(runtime=result.runtime))
    store = await Store.open(tmp_path / "cube.db")
    try:
        await store.builds.put_template(TEMPLATE)
        await store.builds.put_build(BUILD)
        catalogue = TemplateCatalogue(cast("object", SimpleNamespace()))  # type: ignore[arg-type]
        settings = Settings(state_dir=tmp_path)
        service = BuildService(node, store.builds, settings, catalogue, clock=SystemClock(), background=Background())
        await service.recorded()

        ending = asyncio.create_task(service._succeed(BUILD, result))
        while not ending.done():
            kept = service.get(TEMPLATE.name)
            assert (kept.build("b1").status is BuildStatus.READY) == (kept.tagged("default") is not None)
            await asyncio.sleep(0.0002)
        await ending
        assert service.origin(TEMPLATE.name) is not None
    finally:
        await store.close()
