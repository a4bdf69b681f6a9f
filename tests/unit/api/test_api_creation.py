from __future__ import annotations

import pytest
from pydantic import ValidationError

from cube.api.creation import create_request
from cube.api.schemas.requests import NewSandbox
from cube.master.sandboxes.requests import CreateSandbox
from cube.master.volumes.service import WantedMount
from cube.model.errors import InvalidInput, Unsupported
from cube.model.mounts import HostMount
from cube.model.network import NetworkConfig, NetworkLimits
from cube.model.sandbox import OnTimeout


def request(**fields: object) -> CreateSandbox:
    return create_request(NewSandbox.model_validate({"templateID": "base", **fields}), default_timeout=15)


def test_defaults() -> None:
    assert request() == CreateSandbox("base", 15)


def test_an_explicit_timeout_of_zero_is_not_the_default() -> None:
    assert request(timeout=0).timeout == 0


@pytest.mark.parametrize("fields", [{"autoPause": True}, {"lifecycle": {"onTimeout": "pause"}}])
def test_both_ways_to_ask_for_a_pause(fields: dict[str, object]) -> None:
    assert request(**fields).on_timeout is OnTimeout.PAUSE


@pytest.mark.parametrize("fields", [{"autoResume": {"enabled": True}}, {"lifecycle": {"autoResume": True}}])
def test_both_ways_to_ask_for_waking(fields: dict[str, object]) -> None:
    assert request(**fields).auto_resume


def test_directories_of_the_host_are_no_metadata() -> None:
    asked = request(metadata={"a": "b", "host-mount": '[{"hostPath": "/data/x", "mountPath": "/mnt"}]'})
    assert asked.metadata == {"a": "b"}
    assert asked.host_mounts == (HostMount("/data/x", "/mnt"),)


def test_volumes() -> None:
    asked = request(volumeMounts=[{"name": "data", "path": "/mnt/./data/"}, {"name": "vol-1", "path": "//x"}])
    assert asked.volume_mounts == (WantedMount("data", "/mnt/data"), WantedMount("vol-1", "/x"))
    asked = request(volumeMounts=[{"name": "data", "path": "/x", "readOnly": True}])
    assert asked.volume_mounts == (WantedMount("data", "/x", read_only=True),)


@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        (["/a", "/" + "ä" * 2050], r"volumeMounts\[1\].path: is not a path"),
        (["/"], "nothing can be mounted at /"),
        (["/proc/1"], "nothing can be mounted at /proc/1"),
        (["/a", "/a/../a/b"], "mounts must not lie in each other"),
        (["/mnt/host/x"], "mounts must not lie in each other"),
    ],
)
def test_volumes_have_places_of_their_own(mounts: list[str], words: str) -> None:
    metadata = {"host-mount": '[{"hostPath": "/data/x", "mountPath": "/mnt/host"}]'}
    with pytest.raises(InvalidInput, match=words):
        request(metadata=metadata, volumeMounts=[{"name": "v", "path": path} for path in mounts])


def test_who_may_reach_it() -> None:
    assert request(network={"allowPublicTraffic": False}).public_traffic is False
    assert request(network={"maskRequestHost": "app.test:${PORT}"}).mask_request_host == "app.test:${PORT}"


@pytest.mark.parametrize("host", ["localhost", "localhost:3000", "${PORT}.app.test", "a-${PORT}", "127.0.0.1:${PORT}"])
def test_host_masks(host: str) -> None:
    assert request(network={"maskRequestHost": host}).mask_request_host == host


@pytest.mark.parametrize("host", ["", "a b", "a\nb", "a:b", "a/b", "${HOST}", "a:123456", "x" * 256, "a:1:2", "é"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="maskRequestHost"):
        request(network={"maskRequestHost": host})


def test_both_names_of_the_environment() -> None:
    assert request(envs={"A": "1", "B": "1"}, envVars={"B": "2"}).env_vars == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    "fields",
    [
        {"network": None},
        {"secure": False},
        {"mcp": {"server": {}}},
        {"volumeMounts": []},
        {"iam": {}},
    ],
)
def test_what_asks_for_nothing_more_is_accepted(fields: dict[str, object]) -> None:
    assert request(**fields) == CreateSandbox("base", 15)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"iam": {"tokens": {}}}, "iam"),
        ({"network": {"egressProxy": {"address": "x:1"}}}, "egressProxy"),
        ({"network": {"httpsPorts": [443]}}, "httpsPorts"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_refused_by_name(fields: dict[str, object], name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        request(**fields)


CLOSED = NetworkConfig(allow_out=("a.test",), deny_out=("0.0.0.0/0",))


@pytest.mark.parametrize(
    "fields",
    [
        {"network": {"allowOut": ["a.test"], "denyOut": ["0.0.0.0/0"]}},
        {"network": {"allow_out": ["a.test"], "deny_out": ["0.0.0.0/0"]}},
        {"cube_network_config": {"allowOut": ["a.test"], "denyOut": ["0.0.0.0/0"]}},
        {"cubevs_context": {"allowOut": ["a.test"], "denyOut": ["0.0.0.0/0"]}},
        {"CubeVSContext": {"allowOut": ["a.test"], "denyOut": ["0.0.0.0/0"]}},
    ],
)
def test_e6_every_name_of_the_network_is_understood(fields: dict[str, object]) -> None:
    assert request(**fields).network == CLOSED


def test_e6_rules_in_upstream_s_form_and_in_e2b_s() -> None:
    rule = {"match": {"host": "a.test"}, "action": {"allow": True}}
    asked = request(network={"rules": [rule]}).network
    assert asked is not None
    assert asked.rules[0].match.host == "a.test"
    asked = request(network={"rules": {"a.test": [{"transform": {"headers": {"X-Key": "k"}}}]}}).network
    assert asked is not None
    assert asked.transforms[0].inject[0].header == "X-Key"


@pytest.mark.parametrize(
    ("fields", "access"),
    [
        ({}, None),
        ({"allow_internet_access": False}, False),
        ({"allow_internet_access": True}, True),
        ({"network": {"allowInternetAccess": False}}, False),
        ({"network": {"allow_internet_access": False}}, False),
        ({"network": {"allowInternetAccess": True}, "allow_internet_access": False}, False),
    ],
)
def test_internet_access(fields: dict[str, object], access: bool | None) -> None:
    asked = request(**fields).network
    assert (asked.allow_internet_access if asked else None) is access


def test_servers_for_names() -> None:
    asked = request(dns_config={"servers": ["9.9.9.9"]}).network
    assert asked is not None
    assert asked.dns_servers == ("9.9.9.9",)
    asked = request(dns_config={"servers": ["9.9.9.9"]}, network={"dnsServers": ["1.1.1.1"]}).network
    assert asked is not None
    assert asked.dns_servers == ("1.1.1.1",)


def test_limits_of_the_network() -> None:
    asked = request(network={"limits": {"connections": 64, "bytesPerSecond": 4096}}).network
    assert asked is not None
    assert asked.limits == NetworkLimits(64, 4096)
