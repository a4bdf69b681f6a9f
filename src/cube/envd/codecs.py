"""Codecs of Connect messages that take malformed input for the client's fault."""

from __future__ import annotations

from typing import Any

import orjson
from connectrpc.code import Code
from connectrpc.codec import Codec, proto_binary_codec, proto_json_codec
from connectrpc.errors import ConnectError
from protobuf import Message

#: Brackets of a message that need no look at how they are nested.
_CERTAINLY_SHALLOW = 256


def strict_codecs() -> list[Codec[Any, Any]]:
    """JSON and binary."""
    return [_StrictJsonCodec(proto_json_codec()), _StrictCodec(proto_binary_codec())]


class _StrictCodec:
    """A codec whose refusal of malformed input is the client's fault, not the server's."""

    def __init__(self, codec: Codec[Any, Any]) -> None:
        self._codec = codec
        self.name = codec.name
        self.encode = codec.encode

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Message:
        try:
            return self._codec.decode(data, message_class)  # type: ignore[no-any-return]
        except (ValueError, TypeError, OverflowError, RecursionError, KeyError, EOFError) as error:
            raise ConnectError(Code.INVALID_ARGUMENT, f"the message cannot be decoded: {error}") from error


class _StrictJsonCodec(_StrictCodec):
    """Keeps deeply nested JSON away from the native decoder of protobuf-py 0.6: there it overflows the stack, and the
    whole service dies of it. ``orjson`` refuses more than 1024 levels.
    """

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Message:
        if data.count(b"[") + data.count(b"{") > _CERTAINLY_SHALLOW:
            try:
                orjson.loads(data)
            except orjson.JSONDecodeError as error:
                raise ConnectError(Code.INVALID_ARGUMENT, f"the message is not JSON: {error}") from error
        return super().decode(data, message_class)
