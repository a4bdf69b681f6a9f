"""Brings a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from cube.model.errors import HostError

if TYPE_CHECKING:
    from alembic.config import Config

#: Newest revision in ``migrations/versions``. Known without importing Alembic, so that a start that has nothing to
#: migrate does not pay for it (0.2 s).
HEAD = "0005"


def migrate(engine: Engine) -> None:
    """Apply what is missing. Raises ``HostError`` when the database belongs to a newer version of cube."""
    with engine.begin() as connection:
        if _current(connection) != HEAD:
            _upgrade(connection)


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for the packaged migrations, over a given connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(alembic_config(connection), "head")
    except CommandError as error:
        raise HostError(
            f"the database cannot be brought to this version of cube ({error}): was it written by a newer one?"
        ) from error
