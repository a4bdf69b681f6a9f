"""Templates for tests: a tiny one made in a second, and the built-in ones out of a cache."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.manifest import Manifest
from cube.master.templates import definition
from cube.master.templates.builder import TemplateBuilder
from cube.model.resources import Resources
from cube.model.template import ImageConfig, Template
from cube.settings import Settings

MINIMAL_ID = "tpl-0000000000000000minimal0"
#: Kept between test runs: building the built-in templates takes a minute.
CACHE = Path(os.environ.get("CUBE_TEST_TEMPLATES", "/var/cache/cube-test-templates"))

_DIRECTORIES = (
    *("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "etc", "root", "home/user"),
    *("proc", "sys", "dev", "tmp", "run", "var/tmp", "var/log"),
)
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\n",
    "etc/group": "root:x:0:\nuser:x:1000:\n",
    "etc/hosts": "",
    "etc/hostname": "",
    "etc/resolv.conf": "",
    "etc/machine-id": "",
    "usr/bin/sudo": "",
}


def build_test_template(templates_dir: Path) -> Template:
    """A template named ``minimal`` below ``templates_dir``: busybox, a static bash, users root and ``user`` (1000)."""
    settings = Settings(state_dir=templates_dir.parent, run_dir=templates_dir.parent / "unused-run")
    assert settings.templates_dir == templates_dir, "templates lie in <state_dir>/templates"
    images = ImageStore(settings)
    images.load()
    with _scratch(templates_dir.parent / "minimal-build") as place:
        fill_minimal_tree(place / "tree")
        image = place / "image"
        subprocess.run(["mkfs.erofs", "--quiet", image, place / "tree"], check=True, capture_output=True)
        return images.install(Manifest(_minimal()), image)


def imported_image(templates_dir: Path, names: tuple[str, ...]) -> Template:
    """A template as one that was imported under these names: without a user of its own."""
    settings = Settings(state_dir=templates_dir.parent, run_dir=templates_dir.parent / "unused-run")
    images = ImageStore(settings)
    images.load()
    config = ImageConfig(env={"PATH": "/usr/local/bin:/usr/bin:/bin"})
    template = replace(_minimal(), template_id="tpl-0000000000000000imported", names=names, config=config)
    with _scratch(templates_dir.parent / "imported-build") as place:
        fill_minimal_tree(place / "tree")
        for name in ("passwd", "group"):
            path = place / "tree/etc" / name
            path.write_text(path.read_text().splitlines(keepends=True)[0])
        shutil.rmtree(place / "tree/home/user")
        (place / "tree/usr/bin/sudo").unlink()
        image = place / "image"
        subprocess.run(["mkfs.erofs", "--quiet", image, place / "tree"], check=True, capture_output=True)
        return images.install(Manifest(replace(template, fingerprint="imported")), image)


def _minimal() -> Template:
    return Template(
        template_id=MINIMAL_ID,
        names=("minimal",),
        image="image.erofs",
        image_bytes=1,
        fingerprint="minimal",
        created_at=datetime.now(UTC),
        config=ImageConfig(env={"PATH": "/usr/local/bin:/usr/bin:/bin"}, user="user", sudo_users=("user",)),
        resources=Resources(cpu_count=1, memory_mb=256, disk_mb=256, pids=128),
    )


def fill_minimal_tree(tree: Path) -> None:
    """Make the files of the template ``minimal`` in the new directory ``tree``."""
    for directory in _DIRECTORIES:
        (tree / directory).mkdir(parents=True)
    for path, content in _FILES.items():
        (tree / path).write_text(content)
    shutil.copy(_static("busybox", "busybox-static"), tree / "bin/busybox")
    shutil.copy(_static("bash-static", "bash-static"), tree / "bin/bash")
    for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
        if applet not in ("busybox", "bash"):
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "usr/bin/env").symlink_to("../../bin/busybox")
    for path, mode in {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "usr/bin/sudo": 0o755}.items():
        (tree / path).chmod(mode)
    os.chown(tree / "home/user", 1000, 1000)


def _static(program: str, package: str) -> str:
    """Path of a statically linked program, installed from Debian when it is missing."""
    if shutil.which(program) is None:
        subprocess.run(["apt-get", "install", "--yes", package], check=True, capture_output=True)
    found = shutil.which(program)
    assert found is not None
    return found


def builtin_templates(templates_dir: Path) -> list[Template]:
    """The built-in templates below ``templates_dir``, by hard links or copies from the cache, filled first."""
    with _locked(CACHE):
        settings = Settings(state_dir=CACHE, run_dir=CACHE / "run")
        images = ImageStore(settings)
        images.load()
        try:
            templates = asyncio.run(TemplateBuilder(settings, images).ensure_builtin())
        finally:
            images.unmount_all()
        for template in templates:
            _link_or_copy(settings.templates_dir / template.template_id, templates_dir / template.template_id)
    return templates


POLYGLOT = """
name = "code-interpreter-polyglot"
packages = ["r-base-core", "openjdk-17-jdk-headless"]
code_interpreter = true

[source]
kind = "template"
template = "code-interpreter-v1"

[resources]
memory_mb = 2048
"""


def polyglot_template(templates_dir: Path) -> Template:
    """The template of docs/templates.md that has R and Java, from the cache as the built-in ones."""
    builtin_templates(templates_dir)
    with _locked(CACHE):
        settings = Settings(state_dir=CACHE, run_dir=CACHE / "run")
        images = ImageStore(settings)
        images.load()
        try:
            template = asyncio.run(TemplateBuilder(settings, images).build(definition.parse(POLYGLOT)))
        finally:
            images.unmount_all()
        _link_or_copy(settings.templates_dir / template.template_id, templates_dir / template.template_id)
    return template


def _link_or_copy(source: Path, target: Path) -> None:
    def take(first: str, second: str) -> None:
        try:
            os.link(first, second)
        except OSError:
            shutil.copy2(first, second)

    if not target.exists():
        shutil.copytree(source, target, copy_function=take)


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
