"""The tables. Their history is in ``migrations/``; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in time. SQLite keeps no zone, so what goes in is made UTC and what comes out is marked UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: What a sandbox was cloned from, as it was then: the template itself may be rebuilt or removed meanwhile.
template_revisions = Table(
    "template_revisions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("template_id", String(160), nullable=False),
    Column("manifest", JSON, nullable=False),
)

#: Which sandbox an idempotency key has created, so that the request can be repeated.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    #: Keyed digest of the caller's credential and the key: neither can be read back.
    Column("name", String(64), primary_key=True),
    #: Keyed digest of what was asked for.
    Column("request", String(64), nullable=False),
    Column("sandbox_id", String(40), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "created_at"),
    Index(None, "sandbox_id"),
)

#: Directories that outlive sandboxes; what is in them lies on the node.
volumes = Table(
    "volumes",
    metadata,
    Column("volume_id", String(40), primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    #: What is being done with it, so that it can be finished after a crash.
    Column("state", String(16), nullable=False),
    Column("quota_mb", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

#: Values that are put into requests on their way out of sandboxes. Older values are gone for good.
secrets = Table(
    "secrets",
    metadata,
    Column("secret_id", String(40), primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    #: Encrypted.
    Column("value", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("sandbox_id", String(40), primary_key=True),
    Column("template_id", String(160), nullable=False),
    Column("template_name", String(400), nullable=True),
    Column("template_digest", String(64), ForeignKey(template_revisions.c.digest), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("end_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=True),
    Column("on_timeout", String(16), nullable=False),
    Column("auto_resume", Boolean, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_mb", Integer, nullable=False),
    Column("pids", Integer, nullable=False),
    Column("open_files", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    #: Environment variables, tokens, who may reach it and what it mounts, encrypted.
    Column("secrets", LargeBinary, nullable=False),
    Column("runtime", String(32), nullable=False),
    #: The snapshot that it was created from, which may be gone since.
    Column("snapshot_id", String(40), nullable=True),
    #: What a pause by its timeout keeps, and what the last pause has kept, NULL while it runs.
    Column("auto_pause_mode", String(16), nullable=False, server_default="full"),
    Column("pause_mode", String(16), nullable=True),
    # Serves both questions asked of it: what is alive (NULL), and what ended long ago.
    Index(None, "ended_at"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("snapshot_id", String(40), primary_key=True),
    #: ``name:tag``.
    Column("name", String(400), nullable=True),
    Column("origin_sandbox_id", String(40), nullable=False),
    Column("template_digest", String(64), ForeignKey(template_revisions.c.digest), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("runtime", String(32), nullable=False),
    Column("memory", Boolean, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_mb", Integer, nullable=False),
    Column("pids", Integer, nullable=False),
    Column("open_files", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    #: Environment variables, encrypted.
    Column("secrets", LargeBinary, nullable=False),
    # A name stands for one snapshot.
    Index("ix_snapshots_name", "name", unique=True),
)

#: Templates that clients build.
built_templates = Table(
    "built_templates",
    metadata,
    Column("template_id", String(40), primary_key=True),
    Column("name", String(300), nullable=False, unique=True),
    Column("public", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

builds = Table(
    "builds",
    metadata,
    Column("build_id", String(40), primary_key=True),
    Column("template_id", String(40), ForeignKey(built_templates.c.template_id), nullable=False),
    #: How far it is, and what it has made. Variables are part of that, so it is encrypted.
    Column("document", LargeBinary, nullable=False),
    Index(None, "template_id"),
)

template_tags = Table(
    "template_tags",
    metadata,
    Column("template_id", String(40), ForeignKey(built_templates.c.template_id), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("build_id", String(40), ForeignKey(builds.c.build_id), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

#: What steps of builds gave, to be used again.
build_layers = Table(
    "build_layers",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("snapshot_id", String(40), nullable=False),
    #: What the next step runs with, encrypted.
    Column("surroundings", LargeBinary, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
)
