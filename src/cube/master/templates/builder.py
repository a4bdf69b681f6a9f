"""The image pipeline: source, tree, customisation, erofs image, manifest, installed template."""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.manifest import Manifest
from cube.egress.ca import Authority, open_authority
from cube.master.templates import apt, builtin, debian, oci, python_packages
from cube.master.templates.blobs import open_blobs
from cube.master.templates.bytecode import retime
from cube.master.templates.cube_ca import bake, environment
from cube.master.templates.customise import customise, dpkg_packages
from cube.master.templates.definition import DebianSource, Definition, OciSource, TemplateSource, as_json, check
from cube.master.templates.erofs import EPOCH, make_image
from cube.master.templates.fingerprint import digest, template_id
from cube.master.templates.layers import Limits
from cube.master.templates.normalise import normalise
from cube.master.templates.process import in_thread, run
from cube.master.templates.progress import Meter, Phase, Progress, Report
from cube.master.templates.tree import Tree
from cube.master.templates.unpack import unpack
from cube.master.templates.workspace import workspace
from cube.model.errors import InvalidInput
from cube.model.template import BakedCa, ImageConfig, Template
from cube.settings import Settings


def _silent(progress: Progress) -> None:
    """The report that nobody listens to."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a tree was made from."""

    #: ``debian`` or ``oci``, also of the template it started from: what may be run on the host depends on it.
    kind: str
    config: ImageConfig
    #: Things of the source that were left out, by reason.
    skipped: dict[str, int]


class TemplateBuilder:
    """Builds templates and installs them into an :class:`ImageStore` of this node, one at a time per workspace."""

    def __init__(self, settings: Settings, images: ImageStore) -> None:
        self._workspaces = settings.state_dir / "build"
        self._ca_dir = settings.ca_dir
        self._images = images

    async def ensure_builtin(self, report: Report = _silent) -> list[Template]:
        """Have the default templates on this node; immediate when they are there and unchanged."""
        definitions = builtin.load()
        share = 1 / len(definitions)
        templates = []
        for number, definition in enumerate(definitions):
            templates.append(await self.build(definition, _part(report, number * share, share)))
        return templates

    async def build(self, definition: Definition, report: Report = _silent) -> Template:
        """Build a template, or return the one that the same definition gave before.

        Cancelling stops the work and removes what it made. Raises ``InvalidInput`` for what cannot be built,
        ``TemplateNotFound`` for an unknown source template, ``HostError`` when a tool fails, ``StorageFull``.
        """
        meter = Meter(report)
        recipe = await in_thread(lambda _: self._recipe(check(definition)))
        existing = self._by_recipe(recipe)
        if existing is None:
            async with workspace(self._workspaces) as place:
                existing = await self._build(definition, recipe, place, meter)
        meter(Phase.READY, 1.0, f"{definition.name} is ready")
        return existing

    def _recipe(self, definition: Definition) -> str:
        """Digest over what decides the build before it starts."""
        source = definition.source
        if isinstance(source, DebianSource):
            identity = debian.suite_of(source)
        elif isinstance(source, TemplateSource):
            identity = self._images.get(source.template).fingerprint
        else:
            with open_blobs(source.path) as blobs:
                identity = oci.resolve(blobs, source.tag).digest
        authority = self._authority(definition)
        return digest(as_json(definition), identity, apt.architecture(), authority.fingerprint if authority else "")

    def _authority(self, definition: Definition) -> Authority | None:
        """Made when there is none: templates may be built before the service has run for the first time."""
        return open_authority(self._ca_dir) if definition.with_cube_ca else None

    def _by_recipe(self, recipe: str) -> Template | None:
        entries = (self._images.manifest(template.template_id) for template in self._images.templates())
        return next((entry.template for entry in entries if entry.build.get("recipe") == recipe), None)

    async def _build(self, definition: Definition, recipe: str, place: Path, meter: Meter) -> Template:
        tree, image = place / "tree", place / "image.erofs"
        origin = await self._make_tree(definition, tree, meter)
        await customise(definition, tree, meter)
        contents, baked = await in_thread(lambda _: _finish(tree, self._authority(definition)))
        fingerprint = digest(recipe, contents)
        meter(Phase.PACK, 0.0, "packing the image")
        await make_image(tree, image, fingerprint)
        # Before the image is flushed: what is removed by then need not be written to the disk at all.
        await in_thread(lambda _: shutil.rmtree(tree))
        meter(Phase.INSTALL, 0.0, "installing the template")
        manifest = _manifest(definition, origin, fingerprint, baked, {"recipe": recipe, **contents})
        return await in_thread(lambda _: self._images.install(manifest, image))

    async def _make_tree(self, definition: Definition, tree: Path, meter: Meter) -> Origin:
        source = definition.source
        if isinstance(source, DebianSource):
            await debian.bootstrap(source, tree, meter)
            return Origin("debian", ImageConfig(), {})
        origin = await (
            self._copy_template(source, tree, meter)
            if isinstance(source, TemplateSource)
            else self._unpack_image(source, tree, meter)
        )
        if definition.customises and origin.kind != "debian":
            raise InvalidInput("only a template made of Debian packages can be customised on the host", field="source")
        return origin

    async def _copy_template(self, source: TemplateSource, tree: Path, meter: Meter) -> Origin:
        meter(Phase.SOURCE, 0.1, f"copying {source.template}")
        entry = self._images.manifest(source.template)
        mounted = await in_thread(lambda _: self._images.mount(entry.template))
        await run(["cp", "--archive", "--one-file-system", "--", str(mounted), str(tree)])
        return Origin(str(entry.build.get("origin", "")), entry.template.config, {})

    async def _unpack_image(self, source: OciSource, tree: Path, meter: Meter) -> Origin:
        loop = asyncio.get_running_loop()

        def work(stop: threading.Event) -> Origin:
            with open_blobs(source.path) as blobs:
                image = oci.resolve(blobs, source.tag)
                count = len(image.layers)

                def done(layers: int) -> None:
                    message = f"unpacking layer {layers + 1} of {count}"
                    loop.call_soon_threadsafe(meter, Phase.SOURCE, layers / count, message)

                skipped = unpack(image, blobs, tree, Limits(), stop, done)
            return Origin("oci", image.config, skipped)

        return await in_thread(work)


def _finish(tree: Path, authority: Authority | None) -> tuple[dict[str, Any], BakedCa | None]:
    """Make the tree the root of a sandbox; returns the packages in it, and where the egress CA is."""
    with Tree(tree) as files:
        normalise(files)
        baked = bake(files, authority) if authority else None
        packages = dpkg_packages(files)
        python = python_packages.installed(files)
    retime(tree, EPOCH)
    return {"packages": packages, "python": python}, baked


def _manifest(
    definition: Definition, origin: Origin, fingerprint: str, baked: BakedCa | None, build: dict[str, Any]
) -> Manifest:
    template = Template(
        template_id=template_id(fingerprint),
        names=(definition.name,),
        image="image.erofs",
        image_bytes=1,
        fingerprint=fingerprint,
        created_at=datetime.now(UTC),
        config=_believing(_laid_over(definition.config, origin.config), baked),
        resources=definition.resources,
        code_interpreter=definition.code_interpreter,
        cube_ca=baked,
    )
    return Manifest(template, {"origin": origin.kind, "skipped": origin.skipped, **build})


def _laid_over(config: ImageConfig | None, below: ImageConfig) -> ImageConfig:
    return below if config is None else replace(config, env={**below.env, **config.env})


def _believing(config: ImageConfig, baked: BakedCa | None) -> ImageConfig:
    """What the image or its definition says about certificates counts before what we say."""
    return config if baked is None else replace(config, env={**environment(baked), **config.env})


def _part(report: Report, start: float, share: float) -> Report:
    """Report the progress of one build as that of a part of several."""
    return lambda event: report(replace(event, fraction=start + event.fraction * share))
