"""The built-in templates, from the cache of test builds (the first run takes a minute)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cube.cubelet.storage import mounts
from cube.cubelet.storage.images import ImageStore
from cube.settings import Settings
from support.images import builtin_templates

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

USER = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/user", "LANG=C.UTF-8"]


@pytest.fixture(scope="module")
def images() -> Iterator[ImageStore]:
    """The templates, mounted in an instance of their own."""
    state = Path(tempfile.mkdtemp(prefix="cube-test-", dir="/var/lib"))
    store = ImageStore(Settings(state_dir=state, run_dir=state / "run"))
    try:
        builtin_templates(state / "templates")
        store.load()
        yield store
    finally:
        store.unmount_all()
        shutil.rmtree(state)


@pytest.fixture(scope="module", params=["base", "code-interpreter-v1"])
def root(
    request: pytest.FixtureRequest, images: ImageStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Each template as the writable root of a sandbox."""
    with writable(images, request.param, tmp_path_factory.mktemp("overlay")) as path:
        yield path


@pytest.fixture(scope="module")
def interpreter(images: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``code-interpreter-v1`` as the writable root of a sandbox."""
    with writable(images, "code-interpreter-v1", tmp_path_factory.mktemp("overlay")) as path:
        yield path


@contextmanager
def writable(images: ImageStore, name: str, scratch: Path) -> Iterator[Path]:
    lower = images.mount(images.get(name))
    for directory in ("upper", "work", "root"):
        (scratch / directory).mkdir()
    options = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"
    mounts.mount("overlay", scratch / "root", "overlay", 0, options)
    try:
        yield scratch / "root"
    finally:
        mounts.umount(scratch / "root")


def run(root: Path, *argv: str) -> str:
    """Run a program as ``user`` inside, without network and devices."""
    command = ["unshare", "--net", "chroot", "--userspec=1000:1000", root, *USER, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "program",
    [
        "bash",
        "python3",
        "python",
        "pip",
        "node",
        "git",
        "curl",
        "wget",
        "clear",
        "tput",
        "ps",
        "ip",
        "less",
        "sudo",
        "unzip",
    ],
)
def test_programs_that_agents_expect(root: Path, program: str) -> None:
    assert run(root, "sh", "-c", f"command -v {program}").strip()


def test_the_user(root: Path) -> None:
    assert run(root, "sh", "-c", "id -un; id -u; cd; pwd").split() == ["user", "1000", "/home/user"]
    assert (root / "etc/sudoers.d/user").stat().st_mode & 0o777 == 0o440


def test_nothing_of_the_building_machine_is_in_it(root: Path) -> None:
    for name in ("hostname", "hosts", "machine-id", "resolv.conf"):
        path = root / "etc" / name
        assert not path.is_symlink()
        assert path.read_bytes() == b""
    assert not (root / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    for name in ("dev", "tmp", "run", "proc", "sys", "var/lib/apt/lists"):
        assert list((root / name).iterdir()) == []


def test_packages_can_be_added_in_the_sandbox(root: Path) -> None:
    assert "deb http" in (root / "etc/apt/sources.list").read_text()
    assert list(root.glob("usr/lib/python3*/EXTERNALLY-MANAGED")) == []


def test_certificates(root: Path) -> None:
    assert (root / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000


def test_modules_are_compiled_already(root: Path) -> None:
    output = run(root, "sh", "-c", "python3 -v -B -c 'import json, pip, email.message' 2>&1")
    from_source = re.findall(r"^# code object from '(/usr/.*\.py)'$", output, re.MULTILINE)
    assert from_source == [], "the bytecode does not fit"
    assert "# code object from '/usr/lib/python3" in output


def test_scripts_of_python_packages_start_with_the_python_inside(images: ImageStore) -> None:
    bin_directory = images.mount(images.get("code-interpreter-v1")) / "usr/local/bin"
    first_lines = {path.read_bytes().splitlines()[0] for path in bin_directory.iterdir() if path.is_file()}
    assert first_lines
    assert all(line in (b"#!/usr/bin/python3", b"#!/bin/sh") for line in first_lines), first_lines


def test_the_interpreter_has_its_libraries_and_fonts(interpreter: Path) -> None:
    program = (
        "import numpy, pandas, scipy, PIL, orjson, e2b_charts, IPython, ipykernel, matplotlib_inline\n"
        "import matplotlib, io; matplotlib.use('agg')\n"
        "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig(io.BytesIO())\n"
        "print(pandas.DataFrame({'a': [1]}).sum().a)"
    )
    before = set((interpreter / "home/user/.cache/matplotlib").iterdir())
    assert run(interpreter, "python3", "-c", program).strip() == "1"
    assert before
    assert set((interpreter / "home/user/.cache/matplotlib").iterdir()) == before


def test_the_build_is_recorded(images: ImageStore) -> None:
    entry = images.manifest("code-interpreter-v1")
    assert entry.build["origin"] == "debian"
    assert any(name.startswith("numpy-") for name in entry.build["python"])
    assert "bash" in entry.build["packages"]
    assert entry.template.code_interpreter
