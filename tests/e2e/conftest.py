from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.egress.internet import sites
from support.egress.sites import Internet
from support.images import builtin_templates
from support.machine import machine
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


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Directory of the tests of egress rules."""
    with tempfile.TemporaryDirectory(prefix="egress-e2e-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def internet(directory: Path) -> Iterator[Internet]:
    """Sites beyond the machine that this process enters: its file must be marked ``own_process``."""
    with machine() as beyond, sites(beyond, directory) as internet:
        yield internet
