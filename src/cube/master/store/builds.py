"""The records of templates that clients build. Every call hands its work to the writer thread and returns a future."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

import orjson
from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, insert, select, update

from cube.master.builds.layers import Layer
from cube.master.builds.surroundings import Surroundings
from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import build_layers, builds, built_templates, template_tags
from cube.master.store.writer import Writer
from cube.model.builds import Build, BuiltTemplate, Tag

_BUILD = TypeAdapter(Build)
_SURROUNDINGS = TypeAdapter(Surroundings)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Everything that is recorded of templates."""

    templates: Sequence[BuiltTemplate]
    builds: Sequence[Build]
    tags: Sequence[Tag]


class BuildTable:
    """The four tables. Futures fail with ``StorageFull`` or ``HostError``; a result means: committed."""

    def __init__(self, writer: Writer, box: SecretBox) -> None:
        self._writer = writer
        self._box = box

    def all(self) -> asyncio.Future[Recorded]:
        """All templates with their builds and tags."""
        return self._writer.submit(partial(_read, self._box))

    def put_template(self, template: BuiltTemplate) -> asyncio.Future[None]:
        """Record a template, or what has become of it."""
        return self._writer.submit(partial(_put, built_templates, asdict(template)))

    def put_build(self, build: Build, tags: Sequence[Tag] = ()) -> asyncio.Future[None]:
        """Record a build, or what has become of it, and in the same transaction the tags that it gets."""
        document = self._box.seal(_BUILD.dump_json(build), build.build_id.encode())
        row = {"build_id": build.build_id, "template_id": build.template_id, "document": document}
        return self._writer.submit(partial(_put_build, row, [asdict(tag) for tag in tags]))

    def put_tags(self, tags: Sequence[Tag]) -> asyncio.Future[None]:
        """Record tags, instead of those of these names."""
        return self._writer.submit(partial(_put_tags, [asdict(tag) for tag in tags]))

    def delete_tags(self, template_id: str, tags: Sequence[str]) -> asyncio.Future[None]:
        """Forget tags."""
        return self._writer.submit(partial(_delete_tags, template_id, tags))

    def delete_template(self, template_id: str) -> asyncio.Future[None]:
        """Forget a template with its builds and tags."""
        return self._writer.submit(partial(_delete_template, template_id))

    def layers(self) -> asyncio.Future[Sequence[Layer]]:
        """All layers."""
        return self._writer.submit(partial(_read_layers, self._box))

    def put_layer(self, layer: Layer) -> asyncio.Future[None]:
        """Record a layer, instead of an earlier one with its key."""
        sealed = self._box.seal(orjson.dumps(asdict(layer.surroundings)), layer.key.encode())
        row = {"key": layer.key, "snapshot_id": layer.snapshot_id, "surroundings": sealed, "used_at": layer.used_at}
        return self._writer.submit(partial(_put, build_layers, row))

    def touch_layer(self, key: str, used_at: datetime) -> asyncio.Future[None]:
        """Record that a layer was used."""
        return self._writer.submit(partial(_touch, key, used_at))

    def delete_layer(self, key: str) -> asyncio.Future[None]:
        """Forget a layer."""
        return self._writer.submit(partial(_delete_layer, key))


def _read(box: SecretBox, connection: Connection) -> Recorded:
    rows = connection.execute(select(builds))
    return Recorded(
        [BuiltTemplate(**row) for row in connection.execute(select(built_templates)).mappings()],
        [_BUILD.validate_json(box.open(row.document, row.build_id.encode())) for row in rows],
        [Tag(**row) for row in connection.execute(select(template_tags)).mappings()],
    )


def _put(table: Any, row: dict[str, Any], connection: Connection) -> None:
    """Update the row with this primary key, or insert it."""
    (key,) = table.primary_key.columns
    if not connection.execute(update(table).where(key == row[key.name]).values(row)).rowcount:
        connection.execute(insert(table), row)


def _put_build(row: dict[str, Any], tags: Sequence[dict[str, Any]], connection: Connection) -> None:
    _put(builds, row, connection)
    _put_tags(tags, connection)


def _put_tags(tags: Sequence[dict[str, Any]], connection: Connection) -> None:
    for tag in tags:
        _delete_tags(tag["template_id"], [tag["tag"]], connection)
        connection.execute(insert(template_tags), tag)


def _delete_tags(template_id: str, tags: Sequence[str], connection: Connection) -> None:
    own = template_tags.c.template_id == template_id
    connection.execute(delete(template_tags).where(own, template_tags.c.tag.in_(tags)))


def _delete_template(template_id: str, connection: Connection) -> None:
    for table in (template_tags, builds, built_templates):
        connection.execute(delete(table).where(table.c.template_id == template_id))


def _read_layers(box: SecretBox, connection: Connection) -> Sequence[Layer]:
    return [
        Layer(
            row.key,
            row.snapshot_id,
            _SURROUNDINGS.validate_json(box.open(row.surroundings, row.key.encode())),
            row.used_at,
        )
        for row in connection.execute(select(build_layers))
    ]


def _touch(key: str, used_at: datetime, connection: Connection) -> None:
    connection.execute(update(build_layers).where(build_layers.c.key == key).values(used_at=used_at))


def _delete_layer(key: str, connection: Connection) -> None:
    connection.execute(delete(build_layers).where(build_layers.c.key == key))
