"""One world for the tests of a module: see ``support.egress``."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from support.egress.world import Box, EgressWorld, egress_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[EgressWorld]:
    async with egress_world() as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box(world: EgressWorld) -> Box:
    return world.box()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nothing_is_left(world: EgressWorld) -> AsyncIterator[None]:
    world.internet.clear()
    yield
    for box in world.boxes:
        await world.egress.remove(box.address)
