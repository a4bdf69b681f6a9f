"""E2B's form of credential injection: headers per host, added to what the rest of the policy lets through.

A transform allows nothing by itself, and of several that fit a host the most specific one counts. Both are told to
the gateway in rules of the common form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cube.model.egress import Action, EgressRule, Injection, Match, name_matches
from cube.model.egress_wire import (
    MOST_INJECTIONS,
    MOST_RULES,
    parse_domain,
    parse_header_name,
    parse_header_value,
)
from cube.model.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class HostTransform:
    """Headers for one host, or for all below one where it begins with ``*.``."""

    host: str
    inject: tuple[Injection, ...]


def parse_transforms(wire: object, *, field: str = "rules") -> tuple[HostTransform, ...]:
    """``{host: [{transform: {headers: {name: value}}}]}``. Raises ``InvalidInput`` that names the field."""
    if not isinstance(wire, dict):
        raise InvalidInput(f"{field} must be an object", field=field)
    if len(wire) > MOST_RULES:
        raise InvalidInput(f"{field} exceeds maximum entries: got {len(wire)}, max {MOST_RULES}", field=field)
    return tuple(_transform(host, entries, field) for host, entries in wire.items())


def transform_rules(transforms: Sequence[HostTransform], allowed: Sequence[str] | None) -> tuple[EgressRule, ...]:
    """The rules that mean the same.

    ``allowed`` are the names that the policy lets through, each perhaps with a leading ``*.``; ``None`` means that
    it lets everything through that is not named. Names without a transform get a rule too: they may live at the
    address of one that has.
    """
    if allowed is None:
        patterns = {transform.host for transform in transforms}
        rest: tuple[EgressRule, ...] = (EgressRule(Action(allow=True), name="not transformed"),)
    else:
        narrowed = {narrow for one in transforms for name in allowed if (narrow := _narrower(one.host, name))}
        patterns, rest = narrowed | set(allowed), ()
    return tuple(_rule(pattern, transforms) for pattern in sorted(patterns, key=specificity)) + rest


def specificity(pattern: str) -> tuple[bool, int, str]:
    """Sorts the more specific pattern first: names before wildcards, long ones before short ones."""
    return pattern.startswith("*."), -len(pattern), pattern


def _rule(pattern: str, transforms: Sequence[HostTransform]) -> EgressRule:
    fitting = [one for one in transforms if _narrower(one.host, pattern) == pattern]
    best = min(fitting, key=lambda one: specificity(one.host), default=None)
    inject = best.inject if best else ()
    return EgressRule(Action(allow=True, inject=inject), Match(host=pattern), name=f"host {pattern}")


def _narrower(first: str, second: str) -> str | None:
    """What both patterns have in common: one of them, or nothing."""
    for wide, narrow in ((first, second), (second, first)):
        if wide == narrow or (wide.startswith("*.") and name_matches(wide, narrow.removeprefix("*."))):
            return narrow
    return None


def _transform(host: object, entries: object, field: str) -> HostTransform:
    place = f'{field}."{str(host)[:253]}"'
    name = parse_domain(host, place)
    if not isinstance(entries, list):
        raise InvalidInput(f"{place} must be a list", field=place)
    headers: dict[str, Injection] = {}
    for number, entry in enumerate(entries):
        for injection in _injections(entry, f"{place}[{number}]"):
            headers[injection.header.lower()] = injection
    if len(headers) > MOST_INJECTIONS:
        raise InvalidInput(f"{place} must not set more than {MOST_INJECTIONS} headers", field=place)
    return HostTransform(name, tuple(headers.values()))


def _injections(entry: object, field: str) -> list[Injection]:
    transform = _member(entry, "transform", field)
    headers = _member(transform, "headers", f"{field}.transform")
    place = f"{field}.transform.headers"
    return [_injection(name, value, f"{place}.{str(name)[:128]}") for name, value in headers.items()]


def _injection(name: object, value: object, field: str) -> Injection:
    return Injection(parse_header_name(name, field), parse_header_value(value, field))


def _member(wire: object, key: str, field: str) -> Mapping[str, object]:
    """The object under the only key that there may be; empty when it is left out."""
    if not isinstance(wire, dict):
        raise InvalidInput(f"{field} must be an object", field=field)
    for other in wire:
        if other != key:
            place = f"{field}.{str(other)[:128]}"
            raise InvalidInput(f"{place} is not known; {field} has {key}", field=place)
    value = wire.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{field}.{key} must be an object", field=f"{field}.{key}")
    return value
