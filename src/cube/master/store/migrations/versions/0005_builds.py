"""Templates that clients build."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "built_templates",
        sa.Column("template_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("public", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("template_id", name="pk_built_templates"),
        sa.UniqueConstraint("name", name="uq_built_templates_name"),
    )
    op.create_table(
        "builds",
        sa.Column("build_id", sa.String(40), nullable=False),
        sa.Column("template_id", sa.String(40), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("build_id", name="pk_builds"),
        sa.ForeignKeyConstraint(
            ["template_id"], ["built_templates.template_id"], name="fk_builds_template_id_built_templates"
        ),
    )
    op.create_index("ix_builds_template_id", "builds", ["template_id"])
    op.create_table(
        "template_tags",
        sa.Column("template_id", sa.String(40), nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("build_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("template_id", "tag", name="pk_template_tags"),
        sa.ForeignKeyConstraint(
            ["template_id"], ["built_templates.template_id"], name="fk_template_tags_template_id_built_templates"
        ),
        sa.ForeignKeyConstraint(["build_id"], ["builds.build_id"], name="fk_template_tags_build_id_builds"),
    )
    op.create_table(
        "build_layers",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("snapshot_id", sa.String(40), nullable=False),
        sa.Column("surroundings", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_build_layers"),
    )


def downgrade() -> None:
    op.drop_table("build_layers")
    op.drop_table("template_tags")
    op.drop_table("builds")
    op.drop_table("built_templates")
