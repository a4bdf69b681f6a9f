"""Placeholders in the headers that rules put into requests, and the values that they stand for.

Values are put in here and nowhere before: what is stored, and handed from part to part, has the placeholders.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from cube.model.egress import EgressRule, Injection
from cube.model.egress_wire import parse_header_value
from cube.model.errors import CubeError
from cube.model.secrets import SecretResolver, references

_log = logging.getLogger(__name__)


def referenced(rules: Sequence[EgressRule]) -> frozenset[str]:
    """Names of the secrets that the rules have placeholders for: when one of them changes, they are to be put in force
    anew."""
    texts = (text for rule in rules for one in rule.action.inject for text in (one.secret, one.format))
    return frozenset().union(*map(references, texts))


def resolved(rules: Sequence[EgressRule], secrets: SecretResolver | None) -> tuple[EgressRule, ...]:
    """The rules with the values in place of the placeholders.

    Where there is no value, or one that no header can hold, the injection has an empty secret: see
    :attr:`cube.model.egress.Injection.missing`.
    """
    return tuple(_resolved(rule, secrets) for rule in rules)


def _resolved(rule: EgressRule, secrets: SecretResolver | None) -> EgressRule:
    inject = tuple(_filled(injection, secrets) for injection in rule.action.inject)
    return replace(rule, action=replace(rule.action, inject=inject))


def _filled(injection: Injection, secrets: SecretResolver | None) -> Injection:
    names = references(injection.secret) | references(injection.format)
    if not names:
        return injection
    try:
        if secrets is None:
            return replace(injection, secret="")
        return _with_values(injection, secrets)
    except CubeError as error:
        _log.warning("%s cannot be injected, requests that need it are refused: %s", sorted(names), error.message)
        return replace(injection, secret="")


def _with_values(injection: Injection, secrets: SecretResolver) -> Injection:
    """What a format says beside its secret may be a secret too: then all of it is one."""
    if references(injection.format):
        filled = Injection(injection.header, secrets.resolve(injection.value))
    else:
        filled = replace(injection, secret=secrets.resolve(injection.secret))
    parse_header_value(filled.value, "the value")
    return filled
