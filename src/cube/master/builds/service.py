"""What can be asked about templates that clients build.

A build is made on the node first and recorded then; it is forgotten first and removed from the node then. One that was
under way when the service ended has failed by that: its sandbox is gone with the next start.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from cube.cubelet.agent import NodeAgent
from cube.master.builds.bases import Bases
from cube.master.builds.cache import LayerCache
from cube.master.builds.logs import BuildLogs
from cube.master.builds.names import checked_name, checked_tags
from cube.master.builds.runner import BuildFailed, Runner
from cube.master.builds.shelf import Kept, TemplateShelf, tag_of
from cube.master.builds.uploads import Uploads
from cube.master.sandboxes.background import Background
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.master.sandboxes.clock import Clock
from cube.master.sandboxes.registry import Origin
from cube.master.store.builds import BuildTable
from cube.model.builds import BASE_STEP, Build, BuildLine, BuildStatus, BuiltTemplate, Failure, Recipe, Tag, Wishes
from cube.model.errors import Conflict, CubeError, InvalidInput, LimitExceeded, NotFound, Unsupported
from cube.model.ids import new_template_id
from cube.model.snapshot import Snapshot
from cube.settings import Settings

log = structlog.get_logger(__name__)

_RESTARTED = "the service ended while this was being built: build it again"


class BuildService:
    """Builds of one node. All methods are for the event loop that it was made on.

    Besides what each method names, all raise ``TemplateNotFound`` or ``NotFound`` for a template or build that does not
    exist, and ``StorageFull`` or ``HostError`` when the store fails.
    """

    def __init__(
        self,
        node: NodeAgent,
        table: BuildTable,
        settings: Settings,
        catalogue: TemplateCatalogue,
        *,
        clock: Clock,
        background: Background,
    ) -> None:
        self._node = node
        self._table = table
        self._clock = clock
        self._catalogue = catalogue
        self._background = background
        self._most = settings.max_templates
        self._longest = settings.build_timeout
        self._turns = asyncio.Semaphore(settings.builds_at_once)
        self._shelf = TemplateShelf()
        self._logs = BuildLogs(clock.now)
        self._cache = LayerCache(node, table, clock, settings.build_layers)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: The files of COPY steps.
        self.uploads = Uploads(settings.state_dir / "uploads", settings.build_upload_mb << 20)
        self._runner = Runner(node, self.uploads, self._cache, clock)
        self._bases = Bases(catalogue, self.origin)

    # -- life of the service -------------------------------------------------------------------------------------

    async def recorded(self) -> set[str]:
        """Ids of the snapshots that should exist; the first call of all."""
        known = await self._table.all()
        self._shelf.fill(known.templates, known.builds, known.tags)
        results = [build.result for build in known.builds if build.result is not None]
        return {snapshot.snapshot_id for snapshot in results} | await self._cache.load()

    async def keep_only(self, present: set[str]) -> None:
        """Note what is not there any more, and which builds were cut off."""
        await asyncio.to_thread(self.uploads.open)
        await self._cache.keep_only(present)
        for build in [build for kept in self._shelf for build in kept.builds.values()]:
            if build.status is BuildStatus.BUILDING:
                await self._record(replace(build, status=BuildStatus.ERROR, failure=Failure(_RESTARTED)))
            elif build.result is not None and build.result.snapshot_id not in present:
                log.error("build.lost", template=build.template_id, build=build.build_id)
                failure = Failure("what was built is not there any more: build it again")
                await self._record(replace(build, status=BuildStatus.ERROR, failure=failure, result=None))

    # -- looking -------------------------------------------------------------------------------------------------

    def all(self) -> Sequence[Kept]:
        """All templates, newest first."""
        return sorted(self._shelf, key=lambda kept: (kept.template.created_at, kept.template.template_id), reverse=True)

    def find(self, reference: str) -> Kept | None:
        """The template with this id or name, whatever its tag."""
        return self._shelf.find(reference)

    def get(self, reference: str) -> Kept:
        """Like :meth:`find`."""
        return self._shelf.get(reference)

    def origin(self, reference: str) -> Origin | None:
        """What a sandbox is created from that names a template of clients; ``None`` when there is no such template.

        Raises ``NotFound`` when it has no build that is ready under the tag that is meant, ``Unsupported``.
        """
        kept = self._shelf.find(reference)
        if kept is None:
            return None
        tag = tag_of(reference)
        build = kept.tagged(tag)
        if build is None or build.result is None:
            raise NotFound(f"template {reference[:200]!r} has no build that is ready with the tag {tag!r}")
        if build.result.runtime != self._node.runtime:
            raise Unsupported(f"template {reference[:200]!r} needs the runtime {build.result.runtime!r}")
        return Origin(build.result.template, build.result, kept.template.template_id)

    def lines(self, template: str, build_id: str, least: str = "debug") -> Sequence[BuildLine]:
        """What a build has said, at least as grave as that; of the latest builds."""
        return self._logs.of(self._shelf.get(template).build(build_id).build_id).lines(least)

    # -- building ------------------------------------------------------------------------------------------------

    async def request(self, name: str, tags: Sequence[str], wishes: Wishes) -> Build:
        """Begin with a build, of a new template or of one that there is; nothing is done yet.

        Raises ``InvalidInput``, ``Conflict`` (the name is that of a template of this machine), ``LimitExceeded``,
        ``Unsupported``.
        """
        if not self._node.capabilities.filesystem_snapshot:
            raise Unsupported(f"the runtime {self._node.runtime!r} cannot capture what is built")
        bare, own = checked_name(name, self._catalogue)
        wanted = tuple(dict.fromkeys([*own, *checked_tags(tags)])) or (tag_of(""),)
        kept = self._shelf.find(bare) or await self._new_template(bare)
        now = self._clock.now()
        build = Build(str(uuid.uuid4()), kept.template.template_id, now, now, wanted, wishes)
        await self._record(build)
        return build

    async def begin(self, template: str, build_id: str, recipe: Recipe) -> None:
        """Have a build carried out; returns at once.

        Raises ``InvalidInput`` (the recipe), ``TemplateNotFound`` (what it starts from), ``Conflict`` (it has begun).
        """
        build = self._shelf.get(template).build(build_id)
        if build.status is not BuildStatus.WAITING:
            raise Conflict(f"build {build_id} has begun already: request another one")
        for step in recipe.steps:
            if step.files_hash and not self.uploads.has(step.files_hash):
                raise InvalidInput(f"the files {step.files_hash} have not been uploaded", field="steps.filesHash")
        base = self._bases.of(recipe)
        await self._record(replace(build, status=BuildStatus.BUILDING))
        lines = self._logs.begin(build_id)

        async def work() -> None:
            try:
                async with self._turns, asyncio.timeout(self._longest):
                    result = await self._runner.build(build, recipe, base, lines)
                await self._succeed(build, result)
            except BuildFailed as error:
                await self._fail(build, Failure(error.message, error.step))
            except TimeoutError:
                await self._fail(build, Failure(f"the build took longer than {self._longest} seconds", BASE_STEP))
            except Exception:  # a task of its own: nobody else would tell the client
                log.exception("build.crashed", template=build.template_id, build=build_id)
                await self._fail(build, Failure("the build failed unexpectedly: the log of the service has the reason"))

        task = self._background.start(work(), f"build-{build_id}")
        self._tasks[build_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(build_id, None))

    async def delete(self, reference: str) -> None:
        """Delete a template with all its builds; one that is under way is ended. Sandboxes go on."""
        kept = self._shelf.get(reference)
        template_id = kept.template.template_id
        self._shelf.take(template_id)
        tasks = [task for build_id in kept.builds if (task := self._tasks.get(build_id)) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._table.delete_template(template_id)
        for build in kept.builds.values():
            self._logs.forget(build.build_id)
            if build.result is not None:
                await self._discard(build.result)
        log.info("template.deleted", template=template_id)

    # -- names ---------------------------------------------------------------------------------------------------

    async def set_public(self, reference: str, public: bool) -> BuiltTemplate:
        """Note whether everybody may use a template; there is one team here, so it changes nothing else."""
        template = replace(self._shelf.get(reference).template, public=public)
        await self._table.put_template(template)
        self._shelf.put(template)
        return template

    async def assign_tags(self, target: str, tags: Sequence[str]) -> Tag:
        """Give tags to the build that ``target`` (``name:tag``) means. Raises ``InvalidInput``."""
        kept, wanted = self._shelf.get(target), checked_tags(tags)
        build = kept.tagged(tag_of(target))
        if build is None:
            raise NotFound(f"template {target[:200]!r} has no build with the tag {tag_of(target)!r}")
        if not wanted:
            raise InvalidInput("tags must name at least one", field="tags")
        given = self._tags(build, wanted)
        await self._table.put_tags(given)
        kept.tags.update({tag.tag: tag for tag in given})
        return given[0]

    async def remove_tags(self, name: str, tags: Sequence[str]) -> None:
        """Take tags off a template. Builds stay. Raises ``NotFound`` when it has none of them."""
        kept, wanted = self._shelf.get(name), checked_tags(tags)
        if not any(tag in kept.tags for tag in wanted):
            raise NotFound(f"template {name[:200]!r} has none of these tags")
        await self._table.delete_tags(kept.template.template_id, wanted)
        for tag in wanted:
            kept.tags.pop(tag, None)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _new_template(self, name: str) -> Kept:
        if len(self.all()) >= self._most:
            raise LimitExceeded(f"there are {self._most} templates: delete some", retry_after=60)
        template = BuiltTemplate(new_template_id(), name, self._clock.now())
        await self._table.put_template(template)
        # Another request may have made it meanwhile: names are unique in the table, so only one gets here.
        return self._shelf.put(template)

    async def _record(self, build: Build, tags: Sequence[Tag] = ()) -> None:
        kept = self._shelf.find(build.template_id)
        if kept is None:
            raise NotFound(f"template {build.template_id!r} was deleted")
        build = replace(build, updated_at=self._clock.now())
        if build.status is not BuildStatus.READY:  # at once, so that nobody begins with it a second time
            kept.builds[build.build_id] = build
        await self._table.put_build(build, tags)
        kept.builds[build.build_id] = build
        kept.tags.update({tag.tag: tag for tag in tags})

    async def _succeed(self, build: Build, result: Snapshot) -> None:
        template = replace(result.template, names=(self._shelf.get(build.template_id).template.name,))
        ready = replace(build, status=BuildStatus.READY, result=replace(result, template=template))
        try:
            await self._record(ready, self._tags(build, build.tags))
        except BaseException:  # also when the template is deleted now
            await asyncio.shield(self._discard(result))
            raise
        log.info("build.ready", template=build.template_id, build=build.build_id)

    async def _fail(self, build: Build, failure: Failure) -> None:
        log.info("build.failed", template=build.template_id, build=build.build_id, step=failure.step)
        try:
            await self._record(replace(build, status=BuildStatus.ERROR, failure=failure))
        except NotFound:
            return  # deleted meanwhile: nobody asks any more

    def _tags(self, build: Build, tags: Sequence[str]) -> list[Tag]:
        now: datetime = self._clock.now()
        return [Tag(build.template_id, tag, build.build_id, now) for tag in tags]

    async def _discard(self, result: Snapshot) -> None:
        """What cannot be removed now is by the next start."""
        try:
            await self._node.delete_snapshot(result.snapshot_id)
        except CubeError as error:
            log.warning("build.not_removed", snapshot=result.snapshot_id, reason=error.message)
