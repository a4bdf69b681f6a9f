"""What E2B's client can ask of the API beyond the life of a sandbox: the unmodified client against a real service."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox, SandboxException

from support.service import Service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the settings that these tests need."""
    service = Service(tmp_path_factory.mktemp("features"), templates, "e2ef", "10.238.0.0/20")
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def test_a_create_with_the_same_key_is_the_same_sandbox(service: Service, key: str) -> None:
    first = Sandbox.create("base", idempotency_key=key, **service.client)
    first.files.write("mark", "here")
    again = Sandbox.create("base", idempotency_key=key, **service.client)
    assert again.sandbox_id == first.sandbox_id
    assert again.files.read("mark") == "here"
    with pytest.raises(SandboxException, match="422"):
        Sandbox.create("base", idempotency_key=key, timeout=17, **service.client)
    assert again.kill()
