"""Policies as the admin API speaks them: rules with ids of their own, secrets always masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cube.egress.compile import Policy
from cube.model.egress import REDACTED, EgressRule
from cube.model.egress_wire import parse_rule, to_wire
from cube.model.errors import InvalidInput

Wire = dict[str, Any]
#: What an address without a better name is called in the audit log.
UNNAMED = "unnamed"


def policy_to_wire(policy: Policy) -> Wire:
    """The policy, with the id of each rule and without a secret."""
    rules = zip(policy.ids, policy.rules, strict=True)
    return {"policy_id": policy.policy_id, "rules": [rule_to_wire(name, rule) for name, rule in rules]}


def rule_to_wire(name: str, rule: EgressRule) -> Wire:
    """A rule under an id."""
    return {"id": name, **{key: value for key, value in to_wire(rule).items() if key != "name"}}


def parse_policy(body: object, address: str) -> Policy:
    """A whole policy. Raises ``InvalidInput`` whose ``field`` is the path to the culprit."""
    fields = _object(body, {"policy_id", "rules"}, "the body")
    policy_id = fields.get("policy_id", UNNAMED)
    if not isinstance(policy_id, str) or not policy_id.isprintable() or not 0 < len(policy_id) <= 128:
        raise InvalidInput("policy_id must be a short text", field="policy_id")
    wire = fields.get("rules")
    if not isinstance(wire, list) or not wire:
        raise InvalidInput("rules must be a list with at least one rule", field="rules")
    rules = tuple(parse_identified(entry, f"rules[{number}]") for number, entry in enumerate(wire))
    for number, rule in enumerate(rules):
        if rule.name in {one.name for one in rules[:number]}:
            raise InvalidInput(f"rules[{number}].id is that of another rule", field=f"rules[{number}].id")
    return Policy(address, policy_id, rules)


def parse_identified(wire: object, field: str) -> EgressRule:
    """One rule with its id. Raises ``InvalidInput``."""
    fields = dict(_object(wire, {"id", "match", "action"}, field))
    name = fields.pop("id", None)
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{field}.id must be a text that is not empty", field=f"{field}.id")
    rule = parse_rule({**fields, "name": name}, field=field)
    if any(one.secret == REDACTED for one in rule.action.inject):
        raise InvalidInput(f"{field}.action.inject: a masked secret is no secret", field=f"{field}.action.inject")
    return rule


def with_rule(policy: Policy, rule: EgressRule) -> Policy:
    """The policy with a rule in place of the one that has its id, or behind all others."""
    named = dict(zip(policy.ids, policy.rules, strict=True)) | {rule.name: rule}
    return Policy(policy.address, policy.policy_id, tuple(named.values()))


def _object(wire: object, known: set[str], field: str) -> Mapping[str, Any]:
    if not isinstance(wire, dict):
        raise InvalidInput(f"{field} must be an object", field=field)
    if unknown := sorted(map(str, wire.keys() - known)):
        raise InvalidInput(f"{unknown[0][:128]} is not known; there are {', '.join(sorted(known))}", field=unknown[0])
    return wire
