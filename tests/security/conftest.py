"""A runtime of this folder's own, and sandboxes in it to attack."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.cubelet.storage.images import ImageStore
from cube.model.errors import TemplateNotFound
from cube.model.template import Template
from cube.settings import Settings
from security.ground import Box, Ground
from support.images import CACHE, builtin_templates


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a real kernel and root."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def place() -> Iterator[int]:
    """A number that no other run of these tests has at the moment."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        with (CACHE / f"attack-{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    pytest.fail("four other runs of these tests are under way on this machine")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, place: int) -> Settings:
    """An instance beside all others on this machine."""
    directory = tmp_path_factory.mktemp("security")
    return Settings(
        instance=f"attack{place}",
        state_dir=directory / "state",
        run_dir=directory / "run",
        network_cidr=f"10.244.{place * 16}.0/20",
        id_base=0x5000_0000 + place * 0x0800_0000,
        volume_gb=4,
        seat_pool=2,
    )


@pytest.fixture(scope="session")
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
