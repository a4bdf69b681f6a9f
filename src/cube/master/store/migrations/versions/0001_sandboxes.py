"""Sandboxes and the revisions of templates that they were cloned from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_template_revisions()
    _create_sandboxes()
    op.create_index("ix_sandboxes_ended_at", "sandboxes", ["ended_at"])


def downgrade() -> None:
    op.drop_index("ix_sandboxes_ended_at", "sandboxes")
    op.drop_table("sandboxes")
    op.drop_table("template_revisions")


def _create_template_revisions() -> None:
    op.create_table(
        "template_revisions",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("template_id", sa.String(160), nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_template_revisions"),
    )


def _create_sandboxes() -> None:
    op.create_table(
        "sandboxes",
        sa.Column("sandbox_id", sa.String(40), nullable=False),
        sa.Column("template_id", sa.String(160), nullable=False),
        sa.Column("template_name", sa.String(400), nullable=True),
        sa.Column("template_digest", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("on_timeout", sa.String(16), nullable=False),
        sa.Column("auto_resume", sa.Boolean, nullable=False),
        sa.Column("cpu_count", sa.Integer, nullable=False),
        sa.Column("memory_mb", sa.Integer, nullable=False),
        sa.Column("disk_mb", sa.Integer, nullable=False),
        sa.Column("pids", sa.Integer, nullable=False),
        sa.Column("open_files", sa.Integer, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("secrets", sa.LargeBinary, nullable=False),
        sa.Column("runtime", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("sandbox_id", name="pk_sandboxes"),
        sa.ForeignKeyConstraint(
            ["template_digest"],
            ["template_revisions.digest"],
            name="fk_sandboxes_template_digest_template_revisions",
        ),
    )
