"""Images of templates, mounted by the real kernel, straight from the file and through a loop device."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cube.cubelet.storage import images as module
from cube.cubelet.storage import mounts
from cube.cubelet.storage.images import ImageStore
from cube.model.errors import Conflict, HostError, TemplateNotFound
from cube.model.template import Template
from cube.settings import Settings
from integration.cubelet.storage.conftest import loop_devices, released
from support.images import build_test_template

pytestmark = pytest.mark.root


@pytest.fixture
def template(settings: Settings) -> Template:
    return build_test_template(settings.templates_dir)


@pytest.fixture
def store(settings: Settings, template: Template) -> ImageStore:
    images = ImageStore(settings)
    images.load()
    return images


@pytest.fixture
def without_file_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.12: an image must be a block device."""
    real = mounts.mount

    def mount(source: str | os.PathLike[str], target: Path, kind: str, flags: int, options: str = "") -> None:
        if Path(source).is_file():
            raise OSError(errno.ENOTBLK, "Block device required")
        real(source, target, kind, flags, options)

    monkeypatch.setattr(module.mounts, "mount", mount)


def test_a_mounted_image_shows_its_files_and_refuses_writes(store: ImageStore, template: Template) -> None:
    point = store.mount(template)
    try:
        assert (point / "etc/passwd").read_text().startswith("root:")
        with pytest.raises(OSError, match="Read-only"):
            (point / "etc/passwd").write_text("x")
    finally:
        store.unmount_all()


def test_set_id_programs_and_devices_of_an_image_are_powerless_on_the_host(
    store: ImageStore, template: Template
) -> None:
    point = store.mount(template)
    try:
        flags = os.statvfs(point).f_flag
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        assert point.parent.stat().st_mode & 0o077 == 0
    finally:
        store.unmount_all()


@pytest.mark.usefixtures("without_file_mounts")
def test_through_a_loop_device_that_goes_with_the_mount(
    store: ImageStore, template: Template, settings: Settings
) -> None:
    point = store.mount(template)
    assert (point / "bin/busybox").exists()
    assert len(loop_devices(settings.state_dir)) == 1
    store.unmount_all()
    assert released(settings.state_dir)


def test_many_threads_mount_it_once(store: ImageStore, template: Template, settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        points = set(pool.map(lambda _: store.mount(template), range(32)))
    assert len(points) == len(mounts.below(settings.run_dir)) == 1
    store.unmount_all()


def test_a_mount_of_an_earlier_run_is_adopted(store: ImageStore, template: Template, settings: Settings) -> None:
    point = store.mount(template)
    later = ImageStore(settings)
    later.load()
    assert later.mount(template) == point
    assert len(mounts.below(settings.run_dir)) == 1
    later.unmount_all()
    assert not (settings.run_dir / "images").exists()


def test_what_another_process_has_deleted_and_installed_again_is_mounted_anew(
    store: ImageStore, template: Template, settings: Settings
) -> None:
    """As `cube template delete` does while the service runs."""
    assert store.mount(template).is_dir()
    other = ImageStore(settings)
    other.load()
    other.delete(template.template_id)
    build_test_template(settings.templates_dir)
    store.load()
    try:
        assert (store.mount(store.get("minimal")) / "bin/busybox").exists()
    finally:
        store.unmount_all()


def test_a_template_that_another_process_has_deleted_is_not_found(
    store: ImageStore, template: Template, settings: Settings
) -> None:
    store.mount(template)
    other = ImageStore(settings)
    other.load()
    other.delete(template.template_id)
    store.load()
    with pytest.raises(TemplateNotFound):
        store.mount(template)
    store.unmount_all()


def test_an_image_in_use_is_neither_unmounted_nor_deleted(store: ImageStore, template: Template) -> None:
    point = store.mount(template)
    with (point / "etc/passwd").open():
        with pytest.raises(Conflict):
            store.unmount_all()
        with pytest.raises(Conflict):
            store.delete(template.template_id)
    assert store.get("minimal") == template
    store.delete(template.template_id)
    with pytest.raises(TemplateNotFound):
        store.mount(template)


def test_what_is_no_image_is_an_error_of_the_host(store: ImageStore, template: Template, settings: Settings) -> None:
    image = settings.templates_dir / template.template_id / template.image
    image.write_bytes(os.urandom(template.image_bytes))
    with pytest.raises(HostError, match=r"could not be mounted"):
        store.mount(template)
    store.unmount_all()
