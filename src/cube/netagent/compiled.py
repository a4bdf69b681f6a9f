"""From a policy to what the kernel and the resolver go by: a word, networks by longest prefix, and names.

An address belongs to the smallest listed network that holds it. What the policy says of it follows from the networks
around that one, so it is worked out here, once, and the kernel only looks up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from cube.model.egress import WEB_PORTS, diverted_ports, name_matches
from cube.model.network import EVERYTHING, PRIVATE, DnsMode, NetworkConfig, is_network
from cube.netagent.words import Target, Word


@dataclass(frozen=True, slots=True)
class NodeDefaults:
    """What the node decides where a policy says nothing."""

    dns: DnsMode = DnsMode.OPEN
    connections: int = 4096
    #: 0 means no limit.
    bytes_per_second: int = 0


@dataclass(frozen=True)
class CompiledPolicy:
    """One sandbox's policy, ready for use."""

    word: Word
    #: Where an address leads that these networks hold, the smallest of them deciding.
    networks: Mapping[IPv4Network, Target]
    #: Names that may be reached, and those of which the gateway judges HTTP and HTTPS; both with leading ``*.``.
    allowed_names: tuple[str, ...]
    judged_names: tuple[str, ...]
    #: Names that go by way of the gateway where they may be reached anyway.
    transformed_names: tuple[str, ...]
    dns: DnsMode
    #: Empty for the node's.
    dns_servers: tuple[str, ...]
    connections: int
    bytes_per_second: int
    #: TCP ports besides 80 and 443 whose connections the gateway judges where it judges HTTP and HTTPS.
    ports: tuple[int, ...] = ()

    def target(self, address: IPv4Address) -> Target:
        """Where an address leads, names apart."""
        for length in self._lengths:
            found = self.networks.get(IPv4Network((address, length), strict=False))
            if found is not None:
                return found
        if Word.OPEN not in self.word or _inside_private(address):
            return Target.REFUSE
        return Target.GATEWAY if Word.EVERYTHING_DIVERTED in self.word else Target.PASS

    def target_of_name(self, name: str, address: IPv4Address) -> Target:
        """Where an address leads that a name turned out to have. Private addresses gain nothing by a name."""
        plain = self.target(address)
        if _inside_private(address):
            return plain
        passes = plain in (Target.PASS, Target.GATEWAY) or _fits(self.allowed_names, name)
        judged = plain in (Target.GATEWAY, Target.GATEWAY_ONLY) or _fits(self.judged_names, name)
        transformed = Word.EVERYTHING_DIVERTED in self.word or _fits(self.transformed_names, name)
        return target_of(passes=passes, judged=judged or (passes and transformed))

    def answers(self, name: str) -> bool:
        """Whether the sandbox may be told the addresses of a name."""
        if Word.NAMES not in self.word:
            return False
        if self.dns is DnsMode.OPEN or Word.OPEN in self.word:
            return True
        return self.speaks_of(name)

    def speaks_of(self, name: str) -> bool:
        """Whether something is said of a name."""
        return any(_fits(names, name) for names in (self.allowed_names, self.judged_names, self.transformed_names))

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({network.prefixlen for network in self.networks}, reverse=True)


def target_of(*, passes: bool, judged: bool) -> Target:
    """What two properties of an address come to: that it may be reached, and that the gateway judges HTTP and HTTPS."""
    if passes:
        return Target.GATEWAY if judged else Target.PASS
    return Target.GATEWAY_ONLY if judged else Target.REFUSE


def combined(first: Target, second: Target) -> Target:
    """Where an address leads that two names have."""
    both = (first, second)
    return target_of(
        passes=any(target in (Target.PASS, Target.GATEWAY) for target in both),
        judged=any(target in (Target.GATEWAY, Target.GATEWAY_ONLY) for target in both),
    )


def compiled(config: NetworkConfig, defaults: NodeDefaults) -> CompiledPolicy:
    """What a policy means. Takes some hundred microseconds, and some hundred milliseconds for lists of thousands."""
    hosts = [host for rule in config.rules for host in (rule.match.sni, rule.match.host) if host]
    everything_judged = any(rule.match.sni is None and rule.match.host is None for rule in config.rules)
    judged_names = tuple(dict.fromkeys(host for host in hosts if not is_network(host)))
    names = (config.allowed_names, judged_names, tuple(transform.host for transform in config.transforms))
    mode = _mode(config, defaults)
    networks = _networks(config, mode, hosts, everything_judged=everything_judged)
    return CompiledPolicy(
        word=_word(config, listed=bool(networks) or any(names), named=any(names), everything_judged=everything_judged),
        networks=networks,
        allowed_names=names[0],
        judged_names=names[1],
        transformed_names=names[2],
        dns=mode,
        dns_servers=config.dns_servers or (),
        connections=config.limits.connections or defaults.connections,
        bytes_per_second=config.limits.bytes_per_second or defaults.bytes_per_second,
        ports=tuple(port for port in diverted_ports(config.rules) if port not in WEB_PORTS),
    )


def _word(config: NetworkConfig, *, listed: bool, named: bool, everything_judged: bool) -> Word:
    word = Word(0)
    if not config.denies_everything:
        word |= Word.OPEN
    if listed:
        word |= Word.LISTED
    # Without internet access there is nobody to ask, save about names that are allowed in spite of it.
    if config.allow_internet_access is not False or named:
        word |= Word.NAMES
    if everything_judged:
        word |= Word.EVERYTHING_DIVERTED
    return word


def _mode(config: NetworkConfig, defaults: NodeDefaults) -> DnsMode:
    if config.allow_internet_access is False:
        return DnsMode.STRICT
    return config.dns or defaults.dns


def _networks(
    config: NetworkConfig, mode: DnsMode, hosts: Iterable[str], *, everything_judged: bool
) -> Mapping[IPv4Network, Target]:
    # Servers that are asked directly could carry anything out, which is what strict is to prevent.
    servers = config.dns_servers or () if mode is DnsMode.OPEN else ()
    lists = _Lists(
        allowed=frozenset(IPv4Network(entry) for entry in config.effective_allow_out(servers) if is_network(entry)),
        denied=frozenset(config.denied_networks),
        judged=frozenset(IPv4Network(host) for host in hosts if is_network(host)),
        everything_judged=everything_judged,
    )
    return lists.flattened()


@dataclass(frozen=True)
class _Lists:
    allowed: frozenset[IPv4Network]
    denied: frozenset[IPv4Network]
    judged: frozenset[IPv4Network]
    everything_judged: bool

    @lru_cache(maxsize=16)  # noqa: B019  sandboxes by the hundred have the same lists; no secret is in them
    def flattened(self) -> Mapping[IPv4Network, Target]:
        """Where each listed network leads, save where it leads there without being listed."""
        listed = self.allowed | self.denied | self.judged
        # Being part of a larger network that is allowed opens nothing that is private.
        holding = _Holding(listed)
        holding = _Holding(listed | {private for private in PRIVATE if holding.of(private)})
        private = {node for node in holding.nodes if _PRIVATE.of(node)}
        holders = {node: holding.of(node) for node in holding.nodes}
        targets = {node: self._target(node, around, private) for node, around in holders.items()}
        kept: dict[IPv4Network, Target] = {}
        for node in sorted(targets, key=_length):
            larger = next((one for one in holders[node][1:] if one in kept), None)
            unlisted = self._unlisted(private=node in private) if larger is None else kept[larger]
            if targets[node] is not unlisted:
                kept[node] = targets[node]
        return kept

    def _unlisted(self, *, private: bool) -> Target:
        """Where a network leads of which no list speaks."""
        if EVERYTHING in self.denied or private:
            return Target.REFUSE
        return Target.GATEWAY if self.everything_judged else Target.PASS

    def _target(self, node: IPv4Network, around: Sequence[IPv4Network], private: Collection[IPv4Network]) -> Target:
        counting = [network for network in around if network in private] if node in private else around
        allowed = not self.allowed.isdisjoint(counting)
        denied = node in private or not self.denied.isdisjoint(around)
        judged = not self.judged.isdisjoint(counting)
        passes = allowed or not denied
        return target_of(passes=passes, judged=judged or (passes and self.everything_judged))


class _Holding:
    """Networks by their numbers: :mod:`ipaddress` takes milliseconds for what these do in microseconds."""

    def __init__(self, nodes: Collection[IPv4Network]) -> None:
        self.nodes = nodes
        self._by_number = {(int(node.network_address), node.prefixlen): node for node in nodes}
        lengths = sorted({node.prefixlen for node in nodes}, reverse=True)
        self._masks = [(length, int(IPv4Network((0, length)).netmask)) for length in lengths]

    def of(self, network: IPv4Network) -> list[IPv4Network]:
        """Those that hold a network, itself too, the smallest first."""
        address, most = int(network.network_address), network.prefixlen
        found = (self._by_number.get((address & mask, length)) for length, mask in self._masks if length <= most)
        return [node for node in found if node is not None]


_PRIVATE: Final = _Holding(PRIVATE)


def _length(network: IPv4Network) -> int:
    return network.prefixlen


def _inside_private(address: IPv4Address) -> bool:
    return any(address in private for private in PRIVATE)


def _fits(patterns: Iterable[str], name: str) -> bool:
    return any(name_matches(pattern, name) for pattern in patterns)
