"""Metadata of uploaded files: ``X-Metadata-<key>`` headers, kept as extended attributes ``user.e2b.<key>``."""

from __future__ import annotations

from collections.abc import Mapping

from cube.envd.asgi import Scope
from cube.model.errors import InvalidInput

_HEADER = b"x-metadata-"
_ATTRIBUTE = "user.e2b."
#: Linux allows 255 bytes for the whole name of an attribute.
KEY_LIMIT = 255 - len(_ATTRIBUTE)
#: Bytes of all keys and values of one file.
TOTAL_LIMIT = 4096


def metadata_headers(scope: Scope) -> dict[str, str]:
    """The metadata that a request asks for; raises ``InvalidInput`` beyond what a file can hold."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name.startswith(_HEADER):
            key, text = name[len(_HEADER) :].decode("latin-1").lower(), value.decode("latin-1")
            _check(key, text)
            found[key] = text
    if sum(len(key) + len(text) for key, text in found.items()) > TOTAL_LIMIT:
        raise InvalidInput(f"the metadata is longer than {TOTAL_LIMIT} bytes in all")
    return found


def _check(key: str, text: str) -> None:
    if not 0 < len(key) <= KEY_LIMIT:
        raise InvalidInput(f"a metadata key has 1 to {KEY_LIMIT} bytes")
    if not all(" " <= character <= "~" for character in key + text):
        raise InvalidInput(f"the metadata {key[:50]!r} has characters other than printable ASCII")


def attribute_changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    """The extended attributes that make ``new`` the whole metadata of a file that had ``old``."""
    removed: dict[str, str | None] = {_ATTRIBUTE + key: None for key in old.keys() - new.keys()}
    return removed | {_ATTRIBUTE + key: text for key, text in new.items()}
