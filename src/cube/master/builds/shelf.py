"""Which templates clients have built, in memory: by id and name, with their builds and tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cube.model.builds import Build, BuildStatus, BuiltTemplate, Tag
from cube.model.errors import NotFound, TemplateNotFound
from cube.model.snapshot import DEFAULT_TAG

_LONGEST_ECHO = 64


@dataclass(slots=True)
class Kept:
    """A template, its builds (oldest first) and its tags."""

    template: BuiltTemplate
    builds: dict[str, Build] = field(default_factory=dict)
    tags: dict[str, Tag] = field(default_factory=dict)

    def build(self, build_id: str) -> Build:
        """A build of it; raises ``NotFound``."""
        try:
            return self.builds[build_id]
        except KeyError:
            raise NotFound(
                f"template {self.template.template_id!r} has no build {build_id[:_LONGEST_ECHO]!r}"
            ) from None

    def tagged(self, tag: str) -> Build | None:
        """The build with a tag."""
        found = self.tags.get(tag)
        return None if found is None else self.builds.get(found.build_id)

    @property
    def shown(self) -> Build:
        """The build that speaks for it: the default one, else the newest one that is ready, else the newest one."""
        newest = list(reversed(self.builds.values()))
        ready = (build for build in newest if build.status is BuildStatus.READY)
        return self.tagged(DEFAULT_TAG) or next(ready, newest[0])


class TemplateShelf:
    """All of them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Kept] = {}
        self._by_name: dict[str, str] = {}

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._by_id.values())

    def fill(self, templates: Sequence[BuiltTemplate], builds: Sequence[Build], tags: Sequence[Tag]) -> None:
        """Take in what is recorded."""
        for template in templates:
            self.put(template)
        for build in sorted(builds, key=lambda build: build.created_at):
            self._by_id[build.template_id].builds[build.build_id] = build
        for tag in tags:
            self._by_id[tag.template_id].tags[tag.tag] = tag

    def put(self, template: BuiltTemplate) -> Kept:
        """Take a template in, or what has become of it."""
        kept = self._by_id.get(template.template_id)
        if kept is None:
            kept = self._by_id[template.template_id] = Kept(template)
            self._by_name[template.name] = template.template_id
        kept.template = template
        return kept

    def take(self, template_id: str) -> None:
        """Take a template out."""
        kept = self._by_id.pop(template_id)
        del self._by_name[kept.template.name]

    def find(self, reference: str) -> Kept | None:
        """The template with this id or name, with or without a tag."""
        name = reference.partition(":")[0]
        return self._by_id.get(self._by_name.get(name, name))

    def get(self, reference: str) -> Kept:
        """Like :meth:`find`; raises ``TemplateNotFound``."""
        kept = self.find(reference)
        if kept is None:
            raise TemplateNotFound(reference[:_LONGEST_ECHO])
        return kept


def tag_of(reference: str) -> str:
    """The tag that a reference means."""
    return reference.partition(":")[2] or DEFAULT_TAG
