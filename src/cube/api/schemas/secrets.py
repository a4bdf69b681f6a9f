"""Secrets as clients see them: everything but their values."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.config import JsonDict

from cube.api.schemas.base import RequestBody, ResponseBody
from cube.model.secrets import NAME

#: Longest value, in bytes: no server takes longer headers.
_LONGEST_VALUE = 16384
_METADATA_BYTES = 8192
_LONGEST_KEY = 128
_LONGEST_TEXT = 1024


def _one_line(value: str) -> str:
    """Never says the value, which would end up in an answer."""
    if any(character < " " or character == "\x7f" for character in value):
        raise ValueError("must be one line without control characters: it is sent in headers")
    if value != value.strip(" "):
        raise ValueError("must not begin or end with a blank: it is sent in headers")
    return _within(value, _LONGEST_VALUE)


def _small(metadata: dict[str, str]) -> dict[str, str]:
    for key, text in metadata.items():
        _within(key, _LONGEST_KEY)
        _within(text, _LONGEST_TEXT)
    if sum(len(key.encode()) + len(text.encode()) for key, text in metadata.items()) > _METADATA_BYTES:
        raise ValueError(f"keys and values must not be longer than {_METADATA_BYTES} bytes together")
    return metadata


def _within(text: str, limit: int) -> str:
    if len(text.encode()) > limit:
        raise ValueError(f"must not be longer than {limit} bytes")
    return text


#: The same, for the description.
_ONE_LINE: JsonDict = {"pattern": r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?$"}
_CLOSED: JsonDict = {"additionalProperties": False}
_Value = Annotated[
    str,
    Field(
        min_length=1,
        max_length=_LONGEST_VALUE,
        repr=False,
        description="One line. Never told again.",
        json_schema_extra=_ONE_LINE,
    ),
    AfterValidator(_one_line),
]
_Key = Annotated[str, Field(max_length=_LONGEST_KEY, pattern=r"^[^\x00]+$")]
_Metadata = Annotated[
    dict[_Key, Annotated[str, Field(max_length=_LONGEST_TEXT)]],
    Field(max_length=32, json_schema_extra=_CLOSED),
    AfterValidator(_small),
]


class NewSecret(RequestBody):
    """A secret to keep."""

    name: Annotated[
        str,
        Field(
            max_length=128,
            description="Without blanks and any of {}/?#%\\; kept in lower case.",
            examples=["key"],
            json_schema_extra={"pattern": f"^{NAME}$"},
        ),
    ]
    value: _Value
    metadata: _Metadata | None = None


class SecretUpdate(RequestBody):
    """Another value for a secret."""

    value: _Value
    metadata: Annotated[_Metadata | None, Field(description="Replaces the metadata; left out, that stays.")] = None


class Secret(ResponseBody):
    """What is told about a secret."""

    secret_id: str
    name: str
    #: Counts the values that it has had.
    current_version: int
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
