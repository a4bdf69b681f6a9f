"""Names that the parts of the outbound Envoy's configuration share."""

from __future__ import annotations

from typing import Any

from cube.proxy.vocabulary import Json, typed

#: Where configuration is fetched: the one stream of this Envoy. A private stream per use would be one per name, and
#: at 1,024 of them Envoy stops asking.
ADS: Json = {"ads": {}, "resource_api_version": "V3"}
#: Filter state, metadata and scopes of ours carry this name.
OURS = "cube"
#: Set by the listener, never by a sandbox.
SOURCE_HEADER = "x-cube-source"
CLUSTER_HEADER = "x-cube-cluster"
#: Port dialled, name of the handshake and authority, with a space between: what names in rules are matched against.
WHERE_HEADER = "x-cube-where"
#: The filters that routes configure.
GATE = "cube.gate"
INJECT = "cube.inject"
CAPTURE = "cube.capture"


def struct(message: str, **fields: Any) -> Json:
    """A ``google.protobuf.Any`` of a message whose descriptor is not at hand: Envoy reads it from its JSON form."""
    url = f"type.googleapis.com/{message}"
    return typed("xds.type.v3.TypedStruct", type_url=url, value=fields)
