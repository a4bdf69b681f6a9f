"""What the reference in a request means: a template of this machine, one that clients have built, or a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cube.master.builds.service import BuildService
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.master.sandboxes.registry import Origin
from cube.model.errors import TemplateNotFound, Unsupported
from cube.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Origins:
    """Finds them."""

    #: Of this node; snapshots of another one cannot be started.
    runtime: str
    templates: TemplateCatalogue
    builds: BuildService
    snapshot: Callable[[str], Snapshot | None]

    def find(self, reference: str) -> Origin:
        """The template or snapshot of this id or name; a template's name goes first.

        Raises ``TemplateNotFound``, ``InvalidInput`` (no reference), ``Unsupported`` (of another runtime).
        """
        try:
            return Origin(self.templates.resolve(reference))
        except TemplateNotFound:
            if (built := self.builds.origin(reference)) is not None:
                return built
            snapshot = self.snapshot(reference)
            if snapshot is None:
                raise
        if snapshot.runtime != self.runtime:
            raise Unsupported(f"snapshot {reference!r} needs the runtime {snapshot.runtime!r}")
        return Origin(snapshot.template, snapshot)

    def template_named(self, reference: str) -> str | None:
        """Id of the template with this id or name, whoever has made it."""
        with suppress(TemplateNotFound):
            return self.templates.resolve(reference).template_id
        built = self.builds.find(reference)
        return None if built is None else built.template.template_id
