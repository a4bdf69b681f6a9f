"""Fills protobuf messages from their JSON form, as ``google.protobuf.json_format.ParseDict`` does, in a quarter of its
time: it looks at every key and value anew, where this remembers how each field of a message is filled.

Configuration of ours is all it is for: fields are named as in the ``.proto`` file, and there are no ``bytes`` and no
64 bit numbers as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from google.protobuf import symbol_database  # type: ignore[import-untyped]
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.json_format import ParseDict, ParseError  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

_Fill = Callable[[Message, Any], None]
_TYPE = "@type"


def fill(message: Message, config: Mapping[str, Any]) -> None:
    """Set what ``config`` says. Raises ``json_format.ParseError`` for what the message does not have."""
    _filler(message.DESCRIPTOR)(message, config)


@cache
def _filler(descriptor: Descriptor) -> _Fill:
    special = _SPECIAL.get(descriptor.full_name)
    if special is not None:
        return special
    if descriptor.file.name.startswith("google/protobuf/"):
        return _well_known
    fields: dict[str, _Fill] = {}

    def general(message: Message, config: Mapping[str, Any]) -> None:
        # A message without a value in it is there all the same.
        message.SetInParent()
        for name, value in config.items():
            setter = fields.get(name) or fields.setdefault(name, _setter(descriptor, name))
            try:
                setter(message, value)
            except (TypeError, ValueError, AttributeError, KeyError) as error:
                raise ParseError(f"{descriptor.full_name}.{name}: {error}") from error

    return general


def _well_known(message: Message, value: Any) -> None:
    message.SetInParent()
    ParseDict(value, message)


def _setter(descriptor: Descriptor, name: str) -> _Fill:
    field = descriptor.fields_by_name.get(name)
    if field is None:
        raise ParseError(f"{descriptor.full_name} has no field {name!r}")
    if field.message_type is None:
        return _scalars(field) if field.is_repeated else lambda message, value: setattr(message, name, value)
    if field.message_type.GetOptions().map_entry:
        return _entries(field)
    inner = _filler(field.message_type)
    if field.is_repeated:
        return lambda message, values: _add(getattr(message, name), inner, values)
    return lambda message, value: inner(getattr(message, name), value)


def _scalars(field: FieldDescriptor) -> _Fill:
    return lambda message, values: getattr(message, field.name).extend(values)


def _add(target: Any, inner: _Fill, values: list[Any]) -> None:
    for value in values:
        inner(target.add(), value)


def _entries(field: FieldDescriptor) -> _Fill:
    entry = field.message_type.fields_by_name["value"].message_type
    if entry is None:
        return lambda message, values: getattr(message, field.name).update(values)
    inner = _filler(entry)

    def entries(message: Message, values: Mapping[str, Any]) -> None:
        target = getattr(message, field.name)
        for key, value in values.items():
            inner(target[key], value)

    return entries


def _any(message: Message, value: Mapping[str, Any]) -> None:
    message.SetInParent()
    if not value:
        return
    inner = _message(value[_TYPE].rpartition("/")[2])()
    fill(inner, {key: entry for key, entry in value.items() if key != _TYPE})
    message.type_url = value[_TYPE]
    message.value = inner.SerializeToString(deterministic=True)


@cache
def _message(name: str) -> type[Message]:
    found: type[Message] = symbol_database.Default().GetSymbol(name)
    return found


_SPECIAL: dict[str, _Fill] = {"google.protobuf.Any": _any}
