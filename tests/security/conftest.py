"""A runtime of this folder's own, and sandboxes in it to attack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.cubelet.storage.images import ImageStore
from cube.model.errors import TemplateNotFound
from cube.model.template import Template
from cube.settings import Settings
from security.ground import Box, Ground
from support import slots
from support.images import CACHE, builtin_templates

#: See :class:`support.service.Service`.
_PART = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a real kernel and root."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


#: A package's and not the session's: the runtime runs in this process, beside whatever tests come after it.
_scope = pytest.fixture(scope="package")


@_scope
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An instance beside all others on this machine."""
    directory = tmp_path_factory.mktemp("security")
    return Settings(
        instance=slots.instance(_PART),
        state_dir=directory / "state",
        run_dir=directory / "run",
        network_cidr=slots.network(_PART),
        id_base=0x6000_0000 + slots.slot() * 0x0100_0000,
        volume_gb=4,
        seat_pool=2,
        seat_pool_max=4,
    )


@_scope
def ground(settings: Settings) -> Iterator[Ground]:
    """A runtime with the template ``base``; at the end nothing of it is left."""
    settings.templates_dir.mkdir(parents=True)
    base = _base()
    (settings.templates_dir / base.template_id).symlink_to(CACHE / "templates" / base.template_id)
    made = Ground(settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def _base() -> Template:
    """The template ``base`` in the cache, which is filled when it is empty."""
    images = ImageStore(Settings(state_dir=CACHE, run_dir=CACHE / "run"))
    images.load()
    try:
        return images.get("base")
    except TemplateNotFound:
        builtin_templates(CACHE / "templates")
        return images.get("base")


@pytest.fixture(scope="module")
def sandbox(ground: Ground) -> Iterator[Box]:
    """A sandbox that the tests of a module share."""
    with ground.sandbox() as box:
        yield box


@pytest.fixture
def own_sandbox(ground: Ground) -> Iterator[Box]:
    """A sandbox for one test, which may ruin it."""
    with ground.sandbox() as box:
        yield box
