"""The records of templates that clients build, in a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cube.master.builds.layers import Layer
from cube.master.builds.surroundings import Surroundings
from cube.master.store.store import Store
from cube.model.builds import Build, BuildStatus, BuiltTemplate, Failure, Tag, Wishes
from unit.master.test_shelf import snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEMPLATE = BuiltTemplate("tpl-1", "mine", NOW)
BUILD = Build("b1", "tpl-1", NOW, NOW, ("default",), Wishes(1, 512, None))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "cube.db")
    yield opened
    await opened.close()


async def test_what_is_recorded_is_read_again(store: Store, tmp_path: Path) -> None:
    ready = Build("b2", "tpl-1", NOW, NOW, ("v1",), status=BuildStatus.READY, result=snapshot(1, env_vars={"A": "s3c"}))
    failed = Build("b3", "tpl-1", NOW, NOW, (), status=BuildStatus.ERROR, failure=Failure("why", "2"))
    tags = [Tag("tpl-1", tag, "b2", NOW) for tag in ("v1", "stable")]
    await store.builds.put_template(TEMPLATE)
    for build in (BUILD, failed):
        await store.builds.put_build(build)
    await store.builds.put_build(ready, tags)
    found = await store.builds.all()
    assert found.templates == [TEMPLATE]
    assert {build.build_id: build for build in found.builds} == {b.build_id: b for b in (BUILD, ready, failed)}
    assert sorted(found.tags, key=lambda tag: tag.tag) == sorted(tags, key=lambda tag: tag.tag)
    assert b"s3c" not in (tmp_path / "cube.db").read_bytes()


async def test_a_tag_is_on_one_build(store: Store) -> None:
    await store.builds.put_template(TEMPLATE)
    await store.builds.put_build(BUILD, [Tag("tpl-1", "default", "b1", NOW)])
    await store.builds.put_build(Build("b2", "tpl-1", NOW, NOW, ()), [Tag("tpl-1", "default", "b2", NOW)])
    assert [tag.build_id for tag in (await store.builds.all()).tags] == ["b2"]
    await store.builds.delete_tags("tpl-1", ["default", "other"])
    assert (await store.builds.all()).tags == []


async def test_a_template_is_forgotten_with_all_that_is_its(store: Store) -> None:
    await store.builds.put_template(TEMPLATE)
    await store.builds.put_build(BUILD, [Tag("tpl-1", "default", "b1", NOW)])
    await store.builds.delete_template("tpl-1")
    found = await store.builds.all()
    assert (found.templates, found.builds, found.tags) == ([], [], [])


async def test_layers(store: Store, tmp_path: Path) -> None:
    layer = Layer("k" * 64, "snap-1", Surroundings("user", "/srv", {"A": "s3cret"}), NOW)
    await store.builds.put_layer(layer)
    await store.builds.put_layer(layer)
    later = datetime(2026, 2, 1, tzinfo=UTC)
    await store.builds.touch_layer(layer.key, later)
    assert await store.builds.layers() == [Layer(layer.key, "snap-1", layer.surroundings, later)]
    assert b"s3cret" not in (tmp_path / "cube.db").read_bytes()
    await store.builds.delete_layer(layer.key)
    assert await store.builds.layers() == []
