"""A policy as elements of the kernel's sets, and what has to change between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Final

from cube.netagent import ruleset
from cube.netagent.compiled import CompiledPolicy
from cube.netagent.nfelements import ByteLimit, Element, Transaction, mark, mark_value
from cube.netagent.words import DIVERTED_FLOW, Target

#: What tells an element from others: its set and its key.
Key = tuple[str, bytes]
Elements = Mapping[Key, Element]

#: Every set whose keys begin with the address of a sandbox, learned addresses apart.
SETS: Final = (
    ruleset.WORDS,
    ruleset.GENERATIONS,
    ruleset.CURRENT,
    ruleset.STEPS,
    ruleset.RATES_OUT,
    ruleset.RATES_IN,
    ruleset.PORTS,
    *(ruleset.prefix_map(length) for length in range(33)),
)
_OF_GENERATION: Final = (ruleset.GENERATIONS, ruleset.CURRENT)


def policy_elements(address: IPv4Address, policy: CompiledPolicy, generation: int) -> dict[Key, Element]:
    """Everything that the kernel is told of a policy."""
    own = address.packed
    elements = [
        Element(ruleset.WORDS, own, mark(policy.word)),
        Element(ruleset.STEPS, own, mark(policy.connections)),
        Element(ruleset.GENERATIONS, own, mark(generation)),
        Element(ruleset.CURRENT, own + mark(generation)),
        Element(ruleset.CURRENT, own + mark(generation | DIVERTED_FLOW)),
        *(
            Element(ruleset.prefix_map(network.prefixlen), own + network.network_address.packed, mark(target))
            for network, target in policy.networks.items()
        ),
        *(Element(ruleset.PORTS, own + _packed_port(port)) for port in policy.ports),
    ]
    if policy.bytes_per_second:
        for name, way in ((ruleset.RATES_OUT, "out"), (ruleset.RATES_IN, "in")):
            elements.append(Element(name, own, object=f"{way}-{own.hex()}-{policy.bytes_per_second}"))
    return keyed(elements)


def learned_element(address: IPv4Address, found: IPv4Address, target: Target, seconds: float) -> Element:
    """What the kernel is told of an address that a name has."""
    return Element(ruleset.LEARNED, address.packed + found.packed, mark(target), seconds)


def keyed(elements: Iterable[Element]) -> dict[Key, Element]:
    """Elements by what tells them apart."""
    return {(element.set, element.key): element for element in elements}


def generation_of(elements: Elements) -> int:
    """The generation of a policy; 0 when there is none."""
    values = (element.value for element in elements.values() if element.set == ruleset.GENERATIONS)
    return mark_value(next(values, None))


def same_policy(first: Elements, second: Elements) -> bool:
    """Whether two differ in nothing but their generation."""
    return _without_generation(first) == _without_generation(second)


def replace(change: Transaction, former: Elements, fresh: Elements) -> None:
    """Have ``fresh`` stand in the place of ``former``; what is the same in both is not touched."""
    gone = [element for key, element in former.items() if fresh.get(key) != element]
    new = [element for key, element in fresh.items() if former.get(key) != element]
    change.delete(gone)
    for element in gone:
        if element.object is not None:
            change.delete_limit(element.object)
    for element in new:
        if element.object is not None:
            change.add_limit(ByteLimit(element.object, int(element.object.rpartition("-")[2])))
    change.add(new)


def _packed_port(port: int) -> bytes:
    """Part of a key: filled up to four bytes, as every part is."""
    return port.to_bytes(2, "big") + bytes(2)


def _without_generation(elements: Elements) -> dict[Key, Element]:
    return {key: element for key, element in elements.items() if element.set not in _OF_GENERATION}
