"""Templates as they were when something was cloned from them: the table ``template_revisions``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from cube.master.store.records import template_digest, template_manifest
from cube.master.store.tables import sandboxes, snapshots, template_revisions
from cube.master.store.writer import Writer, execution
from cube.model.template import Template

_FORGET_TEMPLATES = delete(template_revisions).where(
    template_revisions.c.digest.not_in(select(sandboxes.c.template_digest)),
    template_revisions.c.digest.not_in(select(snapshots.c.template_digest)),
)


class TemplateRevisions:
    """Has each revision written once, before what refers to it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        #: Digest of each template as it was last seen, and which digests are known to be in the database.
        self._digests: dict[str, tuple[Template, str]] = {}
        self._written: set[str] = set()

    def forget_unused(self) -> asyncio.Future[None]:
        """Forget those that nothing refers to. Only before the first call of :meth:`digest`."""
        return self._writer.submit(execution(_FORGET_TEMPLATES, {}))

    def digest(self, template: Template) -> str:
        """Digest of the template, which is on its way into the database when this returns."""
        manifest = None
        known = self._digests.get(template.template_id)
        if known is None or known[0] != template:
            manifest = template_manifest(template)
            known = self._digests[template.template_id] = (template, template_digest(manifest))
        digest = known[1]
        if digest not in self._written:
            self._write(digest, template, manifest or template_manifest(template))
        return digest

    def _write(self, digest: str, template: Template, manifest: dict[str, Any]) -> None:
        row = {"digest": digest, "template_id": template.template_id, "manifest": manifest}
        written = self._writer.submit(partial(_insert, row))
        written.add_done_callback(partial(self._note, digest))

    def _note(self, digest: str, written: asyncio.Future[None]) -> None:
        # When it failed, the insert that needs it fails too and tells its caller; the next one tries again.
        if not written.cancelled() and written.exception() is None:
            self._written.add(digest)


def _insert(row: Mapping[str, Any], connection: Connection) -> None:
    present = select(template_revisions.c.digest).where(template_revisions.c.digest == row["digest"])
    if connection.scalar(present) is None:
        connection.execute(insert(template_revisions), row)
