from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from cube.master.store.engine import sqlite_engine
from cube.master.store.migrate import HEAD, alembic_config, migrate
from cube.master.store.tables import metadata
from cube.model.errors import HostError


def test_head_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "cube.db")
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrations_can_be_undone(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "cube.db")
    migrate(engine)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_a_database_that_is_up_to_date_is_left_alone_without_alembic(tmp_path: Path) -> None:
    migrate(sqlite_engine(tmp_path / "cube.db"))
    program = (
        "import sys; from pathlib import Path; from cube.master.store.engine import sqlite_engine;"
        "from cube.master.store.migrate import migrate;"
        f"migrate(sqlite_engine(Path({str(tmp_path / 'cube.db')!r}))); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "cube.db")
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(HostError, match="newer"):
        migrate(engine)


def test_migrations_are_valid_for_postgresql() -> None:
    config = alembic_config()
    config.attributes["dialect"] = "postgresql"
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    sql = config.output_buffer.getvalue()
    assert "TIMESTAMP WITH TIME ZONE" in sql
    assert "BYTEA" in sql
