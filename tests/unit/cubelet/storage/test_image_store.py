"""Templates on disk: all or nothing, bad ones left out. Nothing is mounted here."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cube.cubelet.storage import images as module
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.manifest import Manifest
from cube.model.errors import InvalidInput, TemplateNotFound
from cube.model.template import Template
from cube.settings import Settings

CREATED = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    images = ImageStore(settings)
    images.load()
    return images


def template(number: int = 1, *names: str, age: int = 0) -> Template:
    return Template(
        template_id=f"tpl-{number:024x}",
        names=names or ("base",),
        image="image.erofs",
        image_bytes=1,
        fingerprint=f"{number:064x}",
        created_at=CREATED - timedelta(days=age),
    )


def install(store: ImageStore, entry: Template, tmp_path: Path, content: bytes = b"image") -> Template:
    image = tmp_path / "new.erofs"
    image.write_bytes(content)
    return store.install(Manifest(entry), image)


def test_an_installed_template_is_found_by_id_and_name(store: ImageStore, tmp_path: Path) -> None:
    installed = install(store, template(), tmp_path)
    assert store.get(installed.template_id) == store.get("base") == installed
    assert installed.image_bytes == len(b"image")


def test_it_is_there_after_a_restart(store: ImageStore, settings: Settings, tmp_path: Path) -> None:
    installed = install(store, template(), tmp_path)
    assert ImageStore(settings).load() == [installed]


def test_the_newest_of_one_name_wins(store: ImageStore, tmp_path: Path) -> None:
    old = install(store, template(1, age=2), tmp_path)
    new = install(store, template(2, age=1), tmp_path)
    assert store.get("base") == new
    assert store.get(old.template_id) == old
    assert store.templates() == [new, old]


def test_what_another_process_installed_is_found(store: ImageStore, settings: Settings, tmp_path: Path) -> None:
    other = ImageStore(settings)
    other.load()
    installed = install(other, template(3, "late"), tmp_path)
    assert store.get("late") == installed


def test_unknown_template(store: ImageStore) -> None:
    with pytest.raises(TemplateNotFound):
        store.get("nothing")


def test_installing_twice_keeps_the_first(store: ImageStore, tmp_path: Path) -> None:
    first = install(store, template(), tmp_path)
    assert install(store, replace(template(), names=("other",)), tmp_path, b"longer image") == first


def test_a_manifest_that_does_not_fit_leaves_nothing(store: ImageStore, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        install(store, replace(template(), image="../escaped"), tmp_path)
    assert os.listdir(settings.templates_dir) == []


def test_a_failure_half_way_leaves_nothing(
    store: ImageStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_flush", full)
    with pytest.raises(OSError, match="No space"):
        install(store, template(), tmp_path)
    assert os.listdir(settings.templates_dir) == []
    with pytest.raises(TemplateNotFound):
        store.get("base")


def test_damaged_templates_are_left_out(store: ImageStore, settings: Settings, tmp_path: Path) -> None:
    good = install(store, template(1), tmp_path)
    truncated = install(store, template(2), tmp_path)
    os.truncate(settings.templates_dir / truncated.template_id / "image.erofs", 1)
    moved = install(store, template(3), tmp_path)
    (settings.templates_dir / moved.template_id).rename(settings.templates_dir / f"tpl-{4:024x}")
    (settings.templates_dir / "tpl-empty").mkdir()
    (settings.templates_dir / "stray-file").write_text("x")
    assert ImageStore(settings).load() == [good]


def test_a_damaged_template_makes_room_for_a_sound_one(settings: Settings, store: ImageStore, tmp_path: Path) -> None:
    installed = install(store, template(), tmp_path)
    (settings.templates_dir / installed.template_id / "template.json").write_text("{")
    again = ImageStore(settings)
    assert again.load() == []
    assert install(again, template(), tmp_path) == again.get("base")


def test_leftovers_of_a_killed_install_are_cleared(settings: Settings, store: ImageStore) -> None:
    leftover = settings.templates_dir / ".new-dead"
    leftover.mkdir()
    (leftover / "image.erofs").write_text("half")
    assert store.load() == []
    assert not leftover.exists()


def test_an_install_under_way_elsewhere_is_left_alone(settings: Settings, store: ImageStore) -> None:
    busy = settings.templates_dir / ".new-busy"
    busy.mkdir()
    holder = os.open(busy, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        store.load()
        assert busy.exists()
    finally:
        os.close(holder)


def test_another_process_looks_at_the_templates_while_one_is_removed(
    store: ImageStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being removed looks like something abandoned: the service would remove it under `cube template`."""
    installed = install(store, template(), tmp_path)
    remove = module.shutil.rmtree

    def looked_at(path: Path) -> None:
        monkeypatch.setattr(module.shutil, "rmtree", remove)
        assert ImageStore(settings).load() == []
        remove(path)

    monkeypatch.setattr(module.shutil, "rmtree", looked_at)
    store.delete(installed.template_id)
    assert list(settings.templates_dir.iterdir()) == []


def test_what_another_process_has_removed_is_not_there(store: ImageStore, settings: Settings, tmp_path: Path) -> None:
    installed = install(store, template(), tmp_path)
    other = ImageStore(settings)
    other.load()
    other.delete(installed.template_id)
    with pytest.raises(TemplateNotFound):
        store.delete(installed.template_id)


def test_delete(store: ImageStore, settings: Settings, tmp_path: Path) -> None:
    installed = install(store, template(), tmp_path)
    store.delete(installed.template_id)
    assert os.listdir(settings.templates_dir) == []
    with pytest.raises(TemplateNotFound):
        store.delete(installed.template_id)
