"""Digests that say whether two templates are the same."""

from __future__ import annotations

import hashlib
import json

#: Raise it when a change of the pipeline changes what it makes of the same input: all templates are rebuilt.
BUILDER_VERSION = 1


def digest(*parts: object) -> str:
    """SHA-256 over the canonical JSON of ``parts`` and the version of the builder."""
    text = json.dumps([BUILDER_VERSION, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def template_id(fingerprint: str) -> str:
    """Id of the template with this fingerprint: ``tpl-`` and 24 hexadecimal digits."""
    return f"tpl-{fingerprint[:24]}"
