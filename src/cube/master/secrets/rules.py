"""Placeholders in the headers that rules put into requests, and the values that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cube.model.egress import EgressRule, Injection
from cube.model.secrets import SecretResolver, references


def referenced(rules: Sequence[EgressRule]) -> frozenset[str]:
    """Names of the secrets that the rules have placeholders for: when one of them changes, they are to be put in force
    anew."""
    texts = (text for rule in rules for one in rule.action.inject for text in (one.secret, one.format))
    return frozenset().union(*map(references, texts))


def resolved(rules: Sequence[EgressRule], secrets: SecretResolver) -> tuple[EgressRule, ...]:
    """The rules with the values in place of the placeholders. Raises ``SecretNotFound``: then none counts."""
    return tuple(_resolved(rule, secrets) for rule in rules)


def _resolved(rule: EgressRule, secrets: SecretResolver) -> EgressRule:
    inject = tuple(_filled(injection, secrets) for injection in rule.action.inject)
    return replace(rule, action=replace(rule.action, inject=inject))


def _filled(injection: Injection, secrets: SecretResolver) -> Injection:
    """What a format says beside its secret may be a secret too: then all of it is one."""
    if not references(injection.format):
        return replace(injection, secret=secrets.resolve(injection.secret))
    return Injection(injection.header, secrets.resolve(injection.value))
