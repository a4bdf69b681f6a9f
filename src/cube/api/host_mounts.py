"""CubeSandbox's way to ask for directories of the host: JSON in the metadata, under the key ``host-mount``."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from cube.api.schemas.base import RequestBody
from cube.model.errors import InvalidInput
from cube.model.mounts import MOST, HostMount, check_targets, clean_path

KEY = "host-mount"
_FIELD = f'metadata."{KEY}"'

_CleanPath = Annotated[str, AfterValidator(clean_path)]


class _Entry(RequestBody):
    host_path: _CleanPath
    mount_path: _CleanPath
    read_only: bool = False


_ENTRIES = TypeAdapter(Annotated[list[_Entry], Field(max_length=MOST)])


def host_mounts(metadata: dict[str, str]) -> tuple[HostMount, ...]:
    """The directories that the metadata asks for. Raises ``InvalidInput``, which names the entry and its field."""
    text = metadata.get(KEY)
    if text is None:
        return ()
    try:
        entries = _ENTRIES.validate_json(text)
    except ValidationError as error:
        raise _malformed(error) from None
    check_targets([entry.mount_path for entry in entries], field=_FIELD)
    return tuple(HostMount(entry.host_path, entry.mount_path, entry.read_only) for entry in entries)


def _malformed(error: ValidationError) -> InvalidInput:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    return InvalidInput(f"{_FIELD}{place[:100]}: {problem['msg']}", field=_FIELD)
