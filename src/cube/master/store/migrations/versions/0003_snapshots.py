"""Snapshots, and how sandboxes are paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("snapshot_id", sa.String(40), nullable=True))
    op.add_column("sandboxes", sa.Column("auto_pause_mode", sa.String(16), nullable=False, server_default="full"))
    op.add_column("sandboxes", sa.Column("pause_mode", sa.String(16), nullable=True))
    op.execute("UPDATE sandboxes SET pause_mode = 'full' WHERE state IN ('pausing', 'paused', 'resuming')")
    _create_snapshots()
    op.create_index("ix_snapshots_name", "snapshots", ["name"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_snapshots_name", "snapshots")
    op.drop_table("snapshots")
    for column in ("pause_mode", "auto_pause_mode", "snapshot_id"):
        op.drop_column("sandboxes", column)


def _create_snapshots() -> None:
    op.create_table(
        "snapshots",
        sa.Column("snapshot_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(400), nullable=True),
        sa.Column("origin_sandbox_id", sa.String(40), nullable=False),
        sa.Column("template_digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("runtime", sa.String(32), nullable=False),
        sa.Column("memory", sa.Boolean, nullable=False),
        sa.Column("cpu_count", sa.Integer, nullable=False),
        sa.Column("memory_mb", sa.Integer, nullable=False),
        sa.Column("disk_mb", sa.Integer, nullable=False),
        sa.Column("pids", sa.Integer, nullable=False),
        sa.Column("open_files", sa.Integer, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("secrets", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", name="pk_snapshots"),
        sa.ForeignKeyConstraint(
            ["template_digest"],
            ["template_revisions.digest"],
            name="fk_snapshots_template_digest_template_revisions",
        ),
    )
