from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.images import builtin_templates
from support.service import Service


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the default templates, built once per machine."""
    directory = tmp_path_factory.mktemp("images") / "templates"
    builtin_templates(directory)
    return directory


@pytest.fixture(scope="session")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service that the tests of a session share."""
    service = Service(tmp_path_factory.mktemp("service"), templates, 0)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def own_service(templates: Path, tmp_path: Path) -> Iterator[Service]:
    """A service for one test, not started yet."""
    service = Service(tmp_path, templates, 1)
    try:
        yield service
    finally:
        service.close()
