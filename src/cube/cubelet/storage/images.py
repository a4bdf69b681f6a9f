"""Templates on this node: ``<templates_dir>/<id>/{image.erofs,template.json}``, mounted below the run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from cube.cubelet.storage import loop, manifest, mounts
from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.manifest import Manifest
from cube.model.errors import Conflict, CubeError, HostError, InvalidInput, TemplateNotFound
from cube.model.template import Template
from cube.settings import Settings

_log = structlog.get_logger(__name__)

MANIFEST = "template.json"
#: Directories of unfinished work start with this; no template id can.
_UNFINISHED = ".new-"
#: How many that need a template are named when it cannot be removed.
_SHOWN_HOLDERS = 5
_FLAGS = mounts.MS_RDONLY | mounts.MS_NODEV | mounts.MS_NOSUID


class ImageStore:
    """The templates of one node. Calls block; they may come from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.templates_dir
        self._mount_points = settings.run_dir / "images"
        self._claims = Claims(settings)
        self._manifests: dict[str, Manifest] = {}
        self._mounted: dict[str, Path] = {}
        self._lock = threading.RLock()

    def load(self) -> list[Template]:
        """Read all manifests, and clear away unfinished work of earlier runs. A bad one is logged and left out."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock:
            for leftover in self._directory.glob(_UNFINISHED + "*"):
                _remove_abandoned(leftover)
            self._manifests = {}
            self._look_for_new()
        return self.templates()

    def _look_for_new(self) -> None:
        """Read what is not known yet: `cube template` installs from a process of its own."""
        for path in sorted(self._directory.iterdir()):
            if path.is_dir() and not path.name.startswith(".") and path.name not in self._manifests:
                try:
                    self._manifests[path.name] = _read(path)
                except CubeError as error:
                    _log.warning("template left out", directory=str(path), reason=error.message)

    def templates(self) -> list[Template]:
        """All usable templates, newest first."""
        found = [entry.template for entry in self._manifests.values()]
        return sorted(found, key=lambda template: template.created_at, reverse=True)

    def get(self, reference: str) -> Template:
        """The template with this id, else the newest with this name; raises ``TemplateNotFound``."""
        return self.manifest(reference).template

    def manifest(self, reference: str) -> Manifest:
        """Like :meth:`get`, with the record of the build."""
        found = self._find(reference)
        if found is None:
            with self._lock:
                self._look_for_new()
            found = self._find(reference)
        if found is None:
            raise TemplateNotFound(reference)
        return found

    def _find(self, reference: str) -> Manifest | None:
        by_name = (entry.template_id for entry in self.templates() if reference in entry.names)
        return self._manifests.get(reference) or self._manifests.get(next(by_name, ""))

    def mount(self, template: Template) -> Path:
        """Where the image of ``template`` is mounted, read-only; mounts it on first use.

        Raises ``TemplateNotFound`` when it is not on this node, ``HostError`` when the kernel cannot mount it.
        """
        mounted = self._mounted.get(template.template_id)
        if mounted is not None and os.path.ismount(mounted):  # `cube template delete` unmounts from its own process
            return mounted
        with self._lock:
            self.get(template.template_id)
            point = self._mount_points / template.template_id
            if mounts.find(point) is None:
                _mount_image(self.file(template), point)
            self._mounted[template.template_id] = point
            return point

    def unmount_all(self) -> None:
        """Unmount every image, also those that an earlier run mounted; raises ``Conflict`` for one in use."""
        with self._lock:
            self._mounted.clear()
            for entry in mounts.below(self._mount_points):
                _unmount(entry.mount_point)
            if self._mount_points.is_dir():
                _remove_empty(self._mount_points)

    def install(self, entry: Manifest, image: Path) -> Template:
        """Take over the file ``image`` as the image of a new template: all of it or nothing.

        A template with this id that is here already, intact, is kept and returned: an id stands for its content.
        Raises ``InvalidInput`` for a manifest that does not fit.
        """
        manifest.check(entry.template)
        with self._lock:
            template_id = entry.template.template_id
            if template_id not in self._manifests:
                self._manifests[template_id] = self._take_over(entry, image)
            return self._manifests[template_id].template

    def _take_over(self, entry: Manifest, image: Path) -> Manifest:
        final = replace(entry, template=replace(entry.template, image_bytes=image.stat().st_size))
        with self._unfinished() as directory:
            shutil.move(image, directory / final.template.image)
            (directory / MANIFEST).write_bytes(manifest.encode(final))
            _flush(directory / final.template.image, directory / MANIFEST, directory)
            target = self._directory / final.template.template_id
            if target.exists():  # left out by load(): a damaged template makes room for a sound one
                shutil.rmtree(target)
            directory.rename(target)
        _flush(self._directory)
        return final

    @contextlib.contextmanager
    def _unfinished(self) -> Iterator[Path]:
        directory = self._directory / f"{_UNFINISHED}{secrets.token_hex(8)}"
        directory.mkdir(parents=True, mode=0o700)
        lock = _lock(directory)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    def delete(self, template_id: str) -> None:
        """Remove a template; raises ``TemplateNotFound``, and ``Conflict`` while its image is in use or snapshots or
        stopped sandboxes need it."""
        with self._lock, self._claims.lock():
            if template_id not in self._manifests:
                raise TemplateNotFound(template_id)
            _require_unclaimed(template_id, self._claims.holders(template_id))
            point = self._mount_points / template_id
            if mounts.find(point) is not None:
                _unmount(point)
            self._mounted.pop(template_id, None)
            self._discard(template_id)

    def _discard(self, template_id: str) -> None:
        """Rename first: a template half removed must not be taken for a whole one. Under a lock, for another process
        that finds it would remove it, too."""
        del self._manifests[template_id]
        directory = self._directory / template_id
        try:
            lock = _lock(directory)
        except FileNotFoundError:
            raise TemplateNotFound(template_id) from None  # another process has removed it
        try:
            grave = directory.rename(self._directory / f"{_UNFINISHED}{secrets.token_hex(8)}")
            shutil.rmtree(grave)
        finally:
            os.close(lock)

    def file(self, template: Template) -> Path:
        """The image of ``template`` as a file, which may be gone."""
        return self._directory / template.template_id / template.image


def _require_unclaimed(template_id: str, holders: list[str]) -> None:
    if holders:
        shown = ", ".join(holders[:_SHOWN_HOLDERS]) + (", …" if len(holders) > _SHOWN_HOLDERS else "")
        raise Conflict(f"template {template_id} is needed by {shown}: delete these first")


def _lock(directory: Path) -> int:
    """Take the lock of unfinished work; raises ``BlockingIOError`` while another process is at it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def _remove_abandoned(directory: Path) -> None:
    """Remove unfinished work, unless a process that lives is at it."""
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        lock = _lock(directory)
        try:
            shutil.rmtree(directory)
        finally:
            os.close(lock)


def _read(directory: Path) -> Manifest:
    try:
        entry = manifest.decode((directory / MANIFEST).read_bytes())
        size = (directory / entry.template.image).stat().st_size
    except OSError as error:
        raise InvalidInput(f"{error.filename or directory} could not be read: {error.strerror}") from error
    if entry.template.template_id != directory.name:
        raise InvalidInput(f"the manifest is that of {entry.template.template_id}", field="template_id")
    if size != entry.template.image_bytes:
        raise InvalidInput(f"the image has {size} bytes instead of {entry.template.image_bytes}", field="image_bytes")
    return entry


def _mount_image(image: Path, point: Path) -> None:
    point.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    point.mkdir(exist_ok=True, mode=0o700)
    try:
        _mount_file(image, point)
    except OSError as error:
        raise HostError(f"the image {image} could not be mounted: {error.strerror}") from error


def _mount_file(image: Path, point: Path) -> None:
    """Straight from the file where the kernel can (Linux 6.12), else through a loop device."""
    try:
        mounts.mount(image, point, "erofs", _FLAGS)
    except OSError as error:
        if error.errno != errno.ENOTBLK:
            raise
        with loop.attached(image, read_only=True) as device:
            mounts.mount(device, point, "erofs", _FLAGS)


def _unmount(point: Path) -> None:
    try:
        mounts.umount(point)
    except OSError as error:
        raise Conflict(f"the image mounted at {point} is in use: end the sandboxes that use it first") from error
    point.rmdir()


def _remove_empty(directory: Path) -> None:
    for entry in directory.iterdir():
        entry.rmdir()
    directory.rmdir()


def _flush(*paths: Path) -> None:
    """Have the disk hold these files and directories before going on."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
