"""Messages from their JSON form: the same as protobuf's own way, in bytes that are the same in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError  # type: ignore[import-untyped]

from cube.egress import messages
from cube.egress.compile import Policy, scope
from cube.egress.envoy.clusters import World
from cube.egress.envoy.listener import egress_listener
from cube.model.egress_wire import parse_rules
from cube.proxy.filling import fill
from cube.proxy.listener import public_listener

_RULES = [
    {
        "name": "api",
        "match": {"host": "api.test", "method": ["GET", "POST"], "path": "/v1/*", "scheme": "https"},
        "action": {
            "allow": True,
            "audit": "full",
            "inject": [
                {"header": "Authorization", "secret": "s", "format": "Bearer ${SECRET}"},
                {"header": "X-Key", "secret": "other"},
            ],
        },
    },
    {"name": "no", "match": {"host": "*.test", "path": "/admin"}, "action": {"allow": False}},
    {"name": "rest", "match": {"host": "10.1.0.0/16"}, "action": {"allow": True, "audit": "none"}},
]
_POLICY = Policy("10.213.0.2", "box", parse_rules(_RULES))


def _listeners() -> list[dict[str, Any]]:
    world = World(Path("/etc/ssl/certs/ca-certificates.crt"), ("192.0.2.1:53",))
    return [
        egress_listener(15001, world, Path("/run/spool.jsonl")),
        public_listener("127.0.0.1", 3000, "cube.test", Path("/run/routes")),
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_a_listener_is_what_protobuf_makes_of_it(number: int) -> None:
    """Filters, their configuration of any type, structs, durations, wrappers, enumerations."""
    assert messages.SCOPE
    config, ours = _listeners()[number], Listener()
    fill(ours, config)
    assert MessageToDict(ours) == MessageToDict(ParseDict(config, Listener()))


def test_a_scope_is_what_protobuf_makes_of_it() -> None:
    """Routes with filters of their own, by name; an empty one too."""
    ours = ScopedRouteConfiguration()
    fill(ours, scope(_POLICY))
    assert MessageToDict(ours) == MessageToDict(ParseDict(scope(_POLICY), ScopedRouteConfiguration()))


@pytest.mark.parametrize(
    "config",
    [
        {"nonsense": 1},
        {"name": 5},
        {"key": {"fragments": [{"nonsense": "x"}]}},
        {"key": {"fragments": 5}},
        {"key": []},
        {"route_configuration": {"typed_per_filter_config": {"x": {"@type": "type.googleapis.com/none.Such"}}}},
        {"route_configuration": {"typed_per_filter_config": {"x": {"no": "type"}}}},
    ],
    ids=str,
)
def test_what_a_message_does_not_have_is_refused(config: dict[str, Any]) -> None:
    """A mistake in the configuration is not sent."""
    with pytest.raises(ParseError):
        fill(ScopedRouteConfiguration(), config)


def test_the_version_is_the_same_in_every_process() -> None:
    """A proxy that outlives a restart of the service is told the difference, not everything anew."""
    versions = {
        subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True).stdout for _ in range(4)
    }
    assert len(versions) == 1


if __name__ == "__main__":
    print(messages.scope(_POLICY).version)
