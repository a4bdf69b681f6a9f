"""Templates that are removed while machines are started from them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.storage.manifest import Manifest
from cube.model.errors import Conflict, TemplateNotFound
from cube.model.ids import new_template_id
from cube.model.template import Template
from support.vm_node import VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    """Its template is its own, and has been captured."""
    async with _own_template(tmp_path) as node:
        box = await node.create()
        await node.runtime.destroy(box.sandbox_id)
        yield node


@contextlib.asynccontextmanager
async def _own_template(directory: Path) -> AsyncIterator[VmNode]:
    template_id = new_template_id()
    async with contextlib.AsyncExitStack() as stack:
        # The directory of templates is kept between runs.
        templates = (directory / "state" / "templates").absolute
        stack.callback(lambda: shutil.rmtree(templates() / template_id, ignore_errors=True))
        node = await stack.enter_async_context(vm_node(directory))
        original = dataclasses.replace(node.template, template_id=template_id, names=())
        node.template = install(node, original)
        yield node


def install(node: VmNode, template: Template) -> Template:
    """Under this id, whatever its image is there for already."""
    source = next(one for one in node.images.templates() if "minimal" in one.names)
    image = node.settings.state_dir / "image"
    shutil.copyfile(node.images.file(source), image)
    return node.images.install(Manifest(template), image)


@pytest.mark.parametrize("turns", [0, 2, 10, 40])
async def test_a_clone_meanwhile_is_whole_or_was_never_there(node: VmNode, turns: int) -> None:
    spec = node.spec()
    creating = asyncio.create_task(node.runtime.create(spec))
    for _ in range(turns):
        await asyncio.sleep(0)
    with contextlib.suppress(Conflict):
        await asyncio.to_thread(node.images.delete, node.template.template_id)
    (made,) = await asyncio.gather(creating, return_exceptions=True)
    removed = node.template not in node.images.load()
    if isinstance(made, MicroVMInstance):
        assert not removed
        assert await run(made, "echo whole") == "whole"
    else:
        assert isinstance(made, TemplateNotFound)
        assert removed
        assert spec.sandbox_id not in await node.runtime.leftovers()


async def test_one_of_a_client_keeps_it(node: VmNode) -> None:
    await node.create()
    with pytest.raises(Conflict, match="is needed by"):
        node.images.delete(node.template.template_id)


async def test_one_that_was_started_ahead_lets_go_of_it(node: VmNode) -> None:
    kept = await node.runtime.create(node.spec(), ahead=True)
    await node.runtime.hand_out(kept)
    with pytest.raises(Conflict, match=kept.sandbox_id):
        node.images.delete(node.template.template_id)
    await node.runtime.destroy(kept.sandbox_id)
    late = await node.runtime.create(node.spec(), ahead=True)
    node.images.delete(node.template.template_id)
    with pytest.raises(TemplateNotFound):
        await node.runtime.hand_out(late)


async def test_the_capture_of_a_removed_one_is_removed_when_the_next_is_made(node: VmNode) -> None:
    cache = node.settings.volume_dir / "cache"
    assert [path for path in cache.iterdir() if path.name.startswith(node.template.template_id)]
    node.images.delete(node.template.template_id)
    node.template = next(one for one in node.images.templates() if "minimal" in one.names)
    await node.create()
    assert {path.name.rpartition("-")[0] for path in cache.iterdir()} == {node.template.template_id}
