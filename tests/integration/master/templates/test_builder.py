"""The pipeline from a local image to a template that can be mounted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cube.cubelet.storage.images import ImageStore
from cube.egress.ca import open_authority
from cube.master.templates import builder as module
from cube.master.templates import erofs
from cube.master.templates.builder import TemplateBuilder
from cube.master.templates.definition import Command, Definition, OciSource, TemplateSource
from cube.master.templates.progress import Phase, Progress
from cube.master.templates.workspace import workspace
from cube.model.errors import HostError, InvalidInput, TemplateNotFound
from cube.model.template import ImageConfig
from cube.settings import Settings
from support.images import build_test_template
from support.oci_images import device, directory, file, layer, make_layout, symlink

pytestmark = pytest.mark.root

LAYERS = (
    layer(directory("etc"), file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), symlink("etc/resolv.conf", "../run/x")),
    layer(file("bin/tool", b"#!/bin/sh\n", mode=0o4755), device("dev/mem"), file("run/stale"), symlink("tmp", "/")),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")


@pytest.fixture
def images(settings: Settings) -> Iterator[ImageStore]:
    store = ImageStore(settings)
    store.load()
    yield store
    store.unmount_all()


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    layout = make_layout(tmp_path / "image", *LAYERS, Env=["A=1", "B=2"], User="app", WorkingDir="/srv")
    return Definition(name="demo", source=OciSource(path=layout))


@pytest.fixture
def builder(settings: Settings, images: ImageStore) -> Iterator[TemplateBuilder]:
    yield TemplateBuilder(settings, images)
    assert not list((settings.state_dir / "build").glob("*")), "a workspace was left behind"
    assert not list(settings.templates_dir.glob(".new-*")), "an unfinished template was left behind"


async def test_an_image_becomes_a_template(
    builder: TemplateBuilder, images: ImageStore, definition: Definition
) -> None:
    template = await builder.build(definition)
    assert (template.names, template.config.user, template.config.workdir) == (("demo",), "app", "/srv")
    assert template.template_id == f"tpl-{template.fingerprint[:24]}"
    root = images.mount(template)
    assert (root / "bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert not (root / "etc/resolv.conf").is_symlink()
    assert [path.name for path in (root / "dev").iterdir()] == []
    assert not (root / "run/stale").exists()
    assert images.manifest("demo").build["skipped"] == {"character_device": 1}


async def test_a_link_in_the_place_of_tmp_does_not_have_the_root_emptied(
    builder: TemplateBuilder, images: ImageStore, definition: Definition
) -> None:
    root = images.mount(await builder.build(definition))
    assert (root / "bin/tool").exists()


async def test_the_same_definition_is_built_once(builder: TemplateBuilder, definition: Definition) -> None:
    first = await builder.build(definition)
    events: list[Progress] = []
    assert await builder.build(definition, events.append) == first
    assert [event.phase for event in events] == [Phase.READY]


async def test_another_definition_of_the_same_image_is_another_template(
    builder: TemplateBuilder, definition: Definition
) -> None:
    first = await builder.build(definition)
    second = await builder.build(replace(definition, config=ImageConfig(env={"B": "3"}, user="root")))
    assert first.template_id != second.template_id
    assert second.config.env.items() >= {"A": "1", "B": "3"}.items()
    assert second.config.user == "root"


async def test_the_same_input_gives_the_same_image(definition: Definition, tmp_path: Path) -> None:
    digests = set()
    open_authority(tmp_path / "one" / "ca")
    shutil.copytree(tmp_path / "one" / "ca", tmp_path / "two" / "ca")
    for name in ("one", "two"):
        settings = Settings(state_dir=tmp_path / name, run_dir=tmp_path / name / "run")
        store = ImageStore(settings)
        store.load()
        template = await TemplateBuilder(settings, store).build(definition)
        image = settings.templates_dir / template.template_id / template.image
        digests.add((template.template_id, hashlib.sha256(image.read_bytes()).hexdigest()))
    assert len(digests) == 1


async def test_progress_never_goes_back_and_ends_at_one(builder: TemplateBuilder, definition: Definition) -> None:
    events: list[Progress] = []
    await builder.build(definition, events.append)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert (events[-1].phase, events[-1].fraction) == (Phase.READY, 1.0)
    assert "unpacking layer 2 of 2" in [event.message for event in events]


async def test_a_template_from_another(builder: TemplateBuilder, images: ImageStore, definition: Definition) -> None:
    await builder.build(definition)
    child = await builder.build(Definition(name="child", source=TemplateSource(template="demo")))
    assert child.config.user == "app"
    assert (images.mount(child) / "bin/tool").exists()


async def test_programs_of_a_foreign_image_never_run_on_the_host(
    builder: TemplateBuilder, definition: Definition, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="Debian"):
        await builder.build(replace(definition, run=(Command(argv=("/bin/tool",)),)))
    await builder.build(definition)
    with pytest.raises(InvalidInput, match="Debian"):
        await builder.build(
            Definition(name="child", source=TemplateSource(template="demo"), run=(Command(argv=("/bin/tool",)),))
        )


async def test_what_cannot_be_built(builder: TemplateBuilder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        await builder.build(Definition(name="x", source=OciSource(path=tmp_path / "missing")))
    with pytest.raises(TemplateNotFound):
        await builder.build(Definition(name="x", source=TemplateSource(template="missing")))
    with pytest.raises(InvalidInput, match="name"):
        await builder.build(Definition(name="../x", source=TemplateSource(template="missing")))


async def test_a_hostile_image_leaves_nothing(builder: TemplateBuilder, images: ImageStore, tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "evil", layer(file("ok"), file("../../evil")))
    with pytest.raises(InvalidInput, match="outside"):
        await builder.build(Definition(name="evil", source=OciSource(path=layout)))
    assert images.templates() == []


async def test_a_failing_tool_is_reported_with_its_last_words(
    builder: TemplateBuilder, definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erofs, "EPOCH", "not a number")
    with pytest.raises(HostError, match=r"mkfs\.erofs failed"):
        await builder.build(definition)


async def test_cancelled_while_unpacking(
    builder: TemplateBuilder, images: ImageStore, definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, unpacking, returned = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    real = module.unpack

    def slow(image: object, blobs: object, tree: Path, limits: object, stop: threading.Event, done: object) -> object:
        tree.mkdir()
        loop.call_soon_threadsafe(unpacking.set)
        assert stop.wait(10), "the thread was not told to stop"
        tree.rmdir()  # would fail if the workspace had been taken away already
        returned.set()
        return real(image, blobs, tree, limits, stop, done)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "unpack", slow)
    task = asyncio.create_task(builder.build(definition))
    await unpacking.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert returned.is_set()
    assert images.templates() == []


async def test_cancelled_while_packing(
    builder: TemplateBuilder,
    images: ImageStore,
    definition: Definition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program is stopped with everything that it started."""
    fake, pid = tmp_path / "bin/mkfs.erofs", tmp_path / "pid"
    os.mkfifo(pid)
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {pid}\nwait\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    task = asyncio.create_task(builder.build(definition))
    child = os.pidfd_open(int(await asyncio.to_thread(pid.read_text)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended(child), 5)
    assert images.templates() == []


async def ended(pidfd: int) -> None:
    """Wait until the process is gone."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, over.set)
    await over.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


async def test_workspaces_of_killed_builds_are_cleared_those_of_others_are_not(
    builder: TemplateBuilder, settings: Settings, definition: Definition
) -> None:
    build = settings.state_dir / "build"
    dead = build / "build-dead"
    (dead / "tree/deep").mkdir(parents=True)
    async with workspace(build) as busy:
        await builder.build(definition)
        assert busy.exists()
        assert not dead.exists()


async def test_e12_the_record_of_a_template_says_what_of_the_egress_ca_is_in_it(
    builder: TemplateBuilder, images: ImageStore, definition: Definition, settings: Settings
) -> None:
    template = await builder.build(definition)
    certificate = settings.ca_dir / "cube-root-ca.crt"

    assert template.cube_ca is not None
    der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(Encoding.DER)
    assert template.cube_ca.fingerprint == hashlib.sha256(der).hexdigest()
    root = images.mount(template)
    for path in template.cube_ca.targets_written:
        assert (root / path.lstrip("/")).read_bytes().count(certificate.read_bytes()) == 1
    assert template.config.env["SSL_CERT_FILE"] in template.cube_ca.targets_written
    fresh = ImageStore(settings)
    fresh.load()
    assert fresh.get("demo").cube_ca == template.cube_ca


async def test_e12_records_from_before_say_that_nothing_is_baked_in(settings: Settings, images: ImageStore) -> None:
    build_test_template(settings.templates_dir)
    path = next(settings.templates_dir.glob("*/*.json"))
    document = json.loads(path.read_text())
    del document["template"]["cube_ca"]
    path.write_text(json.dumps(document))

    images.load()

    assert images.get("minimal").cube_ca is None


async def test_e11_a_new_authority_makes_a_new_template(
    builder: TemplateBuilder, definition: Definition, settings: Settings
) -> None:
    first = await builder.build(definition)
    assert (await builder.build(definition)).fingerprint == first.fingerprint
    settings.ca_dir.rename(settings.ca_dir.with_name("old"))

    second = await builder.build(definition)

    assert second.fingerprint != first.fingerprint
    assert second.cube_ca != first.cube_ca


async def test_e11_a_definition_may_do_without(
    builder: TemplateBuilder, images: ImageStore, definition: Definition
) -> None:
    template = await builder.build(replace(definition, with_cube_ca=False))

    assert template.cube_ca is None
    assert "SSL_CERT_FILE" not in template.config.env
    assert not (images.mount(template) / "etc/ssl").exists()
