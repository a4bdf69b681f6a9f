"""The manifest of a template: what is written is read back, what is wrong is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.storage import manifest
from cube.cubelet.storage.manifest import Manifest
from cube.model.errors import InvalidInput
from cube.model.resources import Resources
from cube.model.template import ImageConfig, Template

TEMPLATE = Template(
    template_id="tpl-0123456789abcdef01234567",
    names=("base", "team/base:v2"),
    image="image.erofs",
    image_bytes=4096,
    fingerprint="f" * 64,
    created_at=datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    config=ImageConfig(env={"LANG": "C.UTF-8"}, user="user", workdir="/srv", sudo_users=("user",)),
    resources=Resources(cpu_count=4, memory_mb=2048),
    code_interpreter=True,
)


def changed(**changes: Any) -> bytes:
    document = json.loads(manifest.encode(Manifest(TEMPLATE)))
    document["template"] |= changes
    return json.dumps(document).encode()


def test_round_trip() -> None:
    original = Manifest(TEMPLATE, {"packages": {"bash": "5.2"}, "origin": "debian"})
    assert manifest.decode(manifest.encode(original)) == original


def test_same_manifest_same_bytes() -> None:
    first = Manifest(TEMPLATE, {"a": 1, "b": 2})
    second = Manifest(TEMPLATE, {"b": 2, "a": 1})
    assert manifest.encode(first) == manifest.encode(second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("template_id", "../../etc"),
        ("template_id", "tpl-"),
        ("image", "../image.erofs"),
        ("image", "/etc/shadow"),
        ("image", ""),
        ("image_bytes", 0),
        ("image_bytes", "4096"),
        ("fingerprint", ""),
        ("names", ["Base"]),
        ("names", "base"),
        ("created_at", "2025-01-02T03:04:05"),
        ("resources", {"cpu_count": "two"}),
        ("unknown", 1),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        manifest.decode(changed(**{field: value}))
    assert field in (caught.value.field or "")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"format": 2}', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        manifest.decode(data)


def test_an_oversized_manifest_is_refused_unread() -> None:
    with pytest.raises(InvalidInput, match="larger than"):
        manifest.decode(b" " * (manifest.MAX_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_either_decode_or_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        manifest.decode(data)
