"""What policies mean, address by address, against the plain sentence: allowed, else denied, else let through."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.model.network import PRIVATE, NetworkConfig
from cube.model.network_wire import WireNetwork, parse_network
from cube.netagent.compiled import CompiledPolicy, NodeDefaults, combined, compiled
from cube.netagent.words import Target, Word

ALL = "0.0.0.0/0"
RULE = {"match": {"host": "api.a.test"}, "action": {"allow": True}}


def parse(**parts: Any) -> NetworkConfig:
    return parse_network(WireNetwork(**parts)).checked()


def policy(**parts: Any) -> CompiledPolicy:
    return compiled(parse(**parts), NodeDefaults())


def target(address: str, **parts: Any) -> Target:
    return policy(**parts).target(IPv4Address(address))


def named(name: str, address: str = "203.0.113.9", **parts: Any) -> Target:
    return policy(**parts).target_of_name(name, IPv4Address(address))


@pytest.mark.parametrize(
    ("address", "parts", "wanted"),
    [
        ("203.0.113.9", {}, Target.PASS),
        ("10.1.2.3", {}, Target.REFUSE),
        ("169.254.169.254", {}, Target.REFUSE),
        ("100.100.100.200", {}, Target.REFUSE),
        ("203.0.113.9", {"allow_internet_access": False}, Target.REFUSE),
        ("203.0.113.9", {"allow_internet_access": False, "allow_out": ["203.0.113.0/24"]}, Target.PASS),
        ("203.0.113.9", {"deny_out": ["203.0.113.9"]}, Target.REFUSE),
        ("203.0.113.8", {"deny_out": ["203.0.113.9"]}, Target.PASS),
        # Allowed wins, whichever of the two is the smaller network.
        ("203.0.113.9", {"deny_out": ["203.0.113.9"], "allow_out": ["203.0.113.0/24"]}, Target.PASS),
        ("203.0.113.9", {"deny_out": ["203.0.113.0/24"], "allow_out": ["203.0.113.9"]}, Target.PASS),
        ("203.0.113.8", {"deny_out": ["203.0.113.0/24"], "allow_out": ["203.0.113.9"]}, Target.REFUSE),
        # Private addresses want to be named.
        ("10.1.2.3", {"allow_out": ["10.1.0.0/16"]}, Target.PASS),
        ("10.2.2.3", {"allow_out": ["10.1.0.0/16"]}, Target.REFUSE),
        ("10.1.2.3", {"allow_out": ["10.0.0.0/8"]}, Target.PASS),
        ("10.1.2.3", {"allow_out": [ALL]}, Target.REFUSE),
        ("10.1.2.3", {"allow_out": ["8.0.0.0/5"]}, Target.REFUSE),
        ("169.254.169.254", {"allow_out": [ALL], "deny_out": [ALL]}, Target.REFUSE),
        ("203.0.113.9", {"allow_out": [ALL], "deny_out": [ALL]}, Target.PASS),
        ("10.1.2.3", {"allow_out": [ALL, "10.1.2.3"]}, Target.PASS),
        ("10.1.2.4", {"allow_out": [ALL, "10.1.2.3"]}, Target.REFUSE),
    ],
)
def test_order_of_judgement(address: str, parts: dict[str, Any], wanted: Target) -> None:
    assert target(address, **parts) is wanted


def rule(**match: Any) -> dict[str, Any]:
    return {"match": match, "action": {"allow": True}}


@pytest.mark.parametrize(
    ("address", "parts", "wanted"),
    [
        ("203.0.113.9", {"rules": [rule(host="203.0.113.9")]}, Target.GATEWAY),
        ("203.0.113.8", {"rules": [rule(host="203.0.113.9")]}, Target.PASS),
        ("203.0.113.9", {"rules": [rule(host="203.0.113.9")], "deny_out": [ALL]}, Target.GATEWAY_ONLY),
        # An allowed network that covers the rule's host does not take it from the gateway, nor does a smaller one.
        (
            "203.0.113.9",
            {"rules": [rule(host="203.0.113.9")], "deny_out": [ALL], "allow_out": ["203.0.113.0/24"]},
            Target.GATEWAY,
        ),
        (
            "203.0.113.9",
            {"rules": [rule(host="203.0.113.0/24")], "deny_out": [ALL], "allow_out": ["203.0.113.9"]},
            Target.GATEWAY,
        ),
        # A rule that speaks of no host speaks of all.
        ("198.51.100.1", {"rules": [rule(method=["POST"])]}, Target.GATEWAY),
        ("198.51.100.1", {"rules": [rule()], "deny_out": [ALL]}, Target.REFUSE),
        ("198.51.100.1", {"rules": [rule()], "deny_out": [ALL], "allow_out": ["198.51.100.0/24"]}, Target.GATEWAY),
        ("10.0.0.1", {"rules": [rule()]}, Target.REFUSE),
        ("10.0.0.1", {"rules": [rule(host="10.0.0.1")]}, Target.GATEWAY_ONLY),
        ("10.0.0.1", {"rules": [rule(host="0.0.0.0/0")]}, Target.REFUSE),
    ],
)
def test_e4_what_the_gateway_judges(address: str, parts: dict[str, Any], wanted: Target) -> None:
    assert target(address, **parts) is wanted


CLOSED = {"deny_out": [ALL]}


@pytest.mark.parametrize(
    ("name", "parts", "wanted"),
    [
        ("a.test", {**CLOSED, "allow_out": ["a.test"]}, Target.PASS),
        ("A.TEST", {**CLOSED, "allow_out": ["a.test"]}, Target.PASS),
        ("b.test", {**CLOSED, "allow_out": ["a.test"]}, Target.REFUSE),
        ("x.a.test", {**CLOSED, "allow_out": ["a.test"]}, Target.REFUSE),
        ("x.a.test", {**CLOSED, "allow_out": ["*.a.test"]}, Target.PASS),
        ("y.x.a.test", {**CLOSED, "allow_out": ["*.a.test"]}, Target.PASS),
        ("a.test", {**CLOSED, "allow_out": ["*.a.test"]}, Target.REFUSE),
        ("evila.test", {**CLOSED, "allow_out": ["*.a.test"]}, Target.REFUSE),
        ("api.a.test", {**CLOSED, "rules": [RULE]}, Target.GATEWAY_ONLY),
        ("api.a.test", {**CLOSED, "rules": [RULE], "allow_out": ["*.a.test"]}, Target.GATEWAY),
        ("api.a.test", {"rules": [RULE]}, Target.GATEWAY),
        ("b.test", {"rules": [RULE]}, Target.PASS),
        ("api.a.test", {**CLOSED, "rules": [rule(sni="*.a.test")]}, Target.GATEWAY_ONLY),
        ("a.test", {**CLOSED, "allow_out": ["a.test"], "rules": [rule()]}, Target.GATEWAY),
        # E2B's form allows nothing, and is applied where something else allows.
        ("a.test", {**CLOSED, "rules": {"a.test": []}}, Target.REFUSE),
        ("a.test", {**CLOSED, "rules": {"a.test": []}, "allow_out": ["a.test"]}, Target.GATEWAY),
        ("a.test", {**CLOSED, "rules": {"a.test": []}, "allow_out": ["203.0.113.0/24"]}, Target.GATEWAY),
        ("a.test", {"rules": {"a.test": []}}, Target.GATEWAY),
    ],
)
def test_e8_where_names_lead(name: str, parts: dict[str, Any], wanted: Target) -> None:
    assert named(name, **parts) is wanted


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "224.0.0.1"])
def test_e8_no_name_opens_a_private_address(address: str) -> None:
    """DNS rebinding: whoever owns an allowed name says which addresses it has."""
    parts = {**CLOSED, "allow_out": ["a.test"], "rules": [rule(host="a.test")]}
    assert named("a.test", address, **parts) is Target.REFUSE


def test_f1_servers_for_names_may_be_asked_directly_where_the_policy_is_restrictive() -> None:
    parts = {"allow_out": ["1.2.3.4/32"], "deny_out": [ALL], "dns_servers": ["203.0.113.53"]}
    found = policy(**parts)
    assert found.networks == {IPv4Network("1.2.3.4/32"): Target.PASS, IPv4Network("203.0.113.53/32"): Target.PASS}
    assert Word.NAMES in found.word
    assert target("203.0.113.53", **parts, dns="strict") is Target.REFUSE


def test_f3_no_internet_access_closes_names_too() -> None:
    found = policy(allow_internet_access=False, dns_servers=["203.0.113.53"])
    assert Word.NAMES not in found.word
    assert found.networks == {}
    assert not found.answers("a.test")


def test_f3_names_that_are_allowed_all_the_same_are_answered_alone() -> None:
    found = policy(allow_internet_access=False, allow_out=["a.test"])
    assert found.answers("a.test")
    assert not found.answers("b.test")


def test_strict_answers_what_is_spoken_of() -> None:
    found = policy(**CLOSED, allow_out=["a.test"], rules=[RULE], dns="strict")
    assert [found.answers(name) for name in ("a.test", "api.a.test", "b.test")] == [True, True, False]
    assert policy(dns="strict").answers("b.test"), "where everything may be reached every name is allowed"
    assert policy(**CLOSED, allow_out=["a.test"]).answers("b.test")


def test_node_decides_what_a_policy_leaves_open() -> None:
    defaults = NodeDefaults(connections=64, bytes_per_second=5000)
    assert compiled(parse(), defaults).connections == 64
    found = compiled(parse(limits={"connections": 16, "bytes_per_second": 9000}), defaults)
    assert (found.connections, found.bytes_per_second) == (16, 9000)


def test_what_says_nothing_new_is_left_out() -> None:
    """The kernel is not told twice: what is denied inside of what is denied, what is allowed where everything is."""
    assert policy(deny_out=[ALL, "10.0.0.0/8", "203.0.113.0/24"]).networks == {}
    assert policy(allow_out=["203.0.113.0/24"]).networks == {}
    assert policy(deny_out=["203.0.113.0/24", "203.0.113.9"]).networks == {IPv4Network("203.0.113.0/24"): Target.REFUSE}


def test_a_private_network_is_allowed_besides_everything() -> None:
    """What is said of everything is no news where nothing is denied, but what is said of the private network is."""
    found = policy(allow_out=[ALL, "224.0.0.0/3"])
    assert found.target(IPv4Address("254.0.0.1")) is Target.PASS
    assert found.target(IPv4Address("10.0.0.1")) is Target.REFUSE
    assert found.target(IPv4Address("203.0.113.1")) is Target.PASS


def test_two_names_of_one_address() -> None:
    assert combined(Target.PASS, Target.GATEWAY_ONLY) is Target.GATEWAY
    assert combined(Target.PASS, Target.PASS) is Target.PASS
    assert combined(Target.REFUSE, Target.GATEWAY_ONLY) is Target.GATEWAY_ONLY


# Few values for each byte, so that networks hold each other and addresses meet them.
_bytes = st.sampled_from([0, 10, 11, 127, 128, 169, 172, 192, 198, 203, 254])
_addresses = st.builds(lambda *octets: IPv4Address(bytes(octets)), _bytes, _bytes, _bytes, _bytes)
_networks = st.builds(lambda a, n: str(IPv4Network((a, n), strict=False)), _addresses, st.integers(0, 32))
_lists = st.lists(_networks, max_size=6)


@given(_lists, _lists, _lists, st.booleans(), st.booleans(), st.lists(_addresses, min_size=1, max_size=20))
def test_every_address_leads_where_the_sentence_says(
    allowed: list[str],
    denied: list[str],
    judged: list[str],
    access: bool,
    everything: bool,
    addresses: list[IPv4Address],
) -> None:
    rules = [rule(host=network) for network in judged] + ([rule()] if everything else [])
    found = policy(allow_out=allowed, deny_out=denied, rules=rules, allow_internet_access=access)
    for address in addresses:
        private = [network for network in PRIVATE if address in network]

        def holds(networks: list[str], address: IPv4Address = address, private: list[IPv4Network] = private) -> bool:
            """Whether one of these networks counts for the address: inside the private range, where it is in one."""
            holding = [IPv4Network(network) for network in networks if address in IPv4Network(network)]
            return any(not private or network.subnet_of(private[0]) for network in holding)

        refused = not access or bool(private) or any(address in IPv4Network(network) for network in denied)
        passes = holds(allowed) or not refused
        gateway = holds(judged) or (passes and everything)
        wanted = {
            (True, True): Target.GATEWAY,
            (True, False): Target.PASS,
            (False, True): Target.GATEWAY_ONLY,
            (False, False): Target.REFUSE,
        }[passes, gateway]
        assert found.target(address) is wanted, address
