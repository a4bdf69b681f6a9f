"""Alembic's entry: runs the migrations over the connection it is handed, or prints their SQL."""

from __future__ import annotations

from alembic import context

from cube.master.store import tables

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(dialect_name=context.config.attributes["dialect"], target_metadata=tables.metadata)
else:
    context.configure(connection=connection, target_metadata=tables.metadata)
with context.begin_transaction():
    context.run_migrations()
