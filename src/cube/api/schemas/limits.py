"""Texts and maps that clients may send, with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.config import JsonDict

#: Most bytes of all keys and values of one map together.
_METADATA_BYTES = 64 * 1024
_ENVIRONMENT_BYTES = 256 * 1024


def _at_most(limit: int, entries: dict[str, str]) -> dict[str, str]:
    if sum(len(key.encode()) + len(value.encode()) for key, value in entries.items()) > limit:
        raise ValueError(f"keys and values must not be longer than {limit} bytes together")
    return entries


def _small_metadata(entries: dict[str, str]) -> dict[str, str]:
    return _at_most(_METADATA_BYTES, entries)


def _small_environment(entries: dict[str, str]) -> dict[str, str]:
    return _at_most(_ENVIRONMENT_BYTES, entries)


_MetadataKey = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
_MetadataValue = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00]*$")]
#: Names that ``execve`` can carry: no ``=``, no NUL.
_EnvName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^=\x00]+$")]
#: Linux takes strings of up to 128 KiB, name and ``=`` included.
_EnvValue = Annotated[str, Field(max_length=120_000, pattern=r"^[^\x00]*$")]

# The description has a pattern for keys; that there are no others must be said too.
_CLOSED: JsonDict = {"additionalProperties": False}
Metadata = Annotated[
    dict[_MetadataKey, _MetadataValue],
    Field(max_length=128, json_schema_extra=_CLOSED),
    AfterValidator(_small_metadata),
]
Environment = Annotated[
    dict[_EnvName, _EnvValue],
    Field(max_length=1024, json_schema_extra=_CLOSED),
    AfterValidator(_small_environment),
]


def _whole(value: object) -> object:
    """JSON has one kind of number: 15.0 is as good as 15."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: Comes last in an annotation, so that it is applied first.
WHOLE = BeforeValidator(_whole)
#: How long a sandbox may live at most is decided by the service; the served description says it. -1 is without an end,
#: as CubeSandbox's client asks for it (``NEVER_TIMEOUT``).
Seconds = Annotated[int, Field(ge=-1, le=2**31 - 1), WHOLE]
