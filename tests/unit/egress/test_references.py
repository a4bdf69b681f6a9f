"""Placeholders of rules, and what is done where there is no value for one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cube.egress.compile import Policy, scope, secrets
from cube.egress.references import referenced, resolved
from cube.model.egress import Action, EgressRule, Injection
from cube.model.errors import SecretNotFound
from cube.model.secrets import fill


class Kept:
    """Secrets by name."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def resolve(self, text: str) -> str:
        return fill(text, self._value)

    def on_change(self, callback: Callable[[str], None]) -> None:
        raise AssertionError("not used here")

    def _value(self, name: str) -> str:
        try:
            return self.values[name]
        except KeyError:
            raise SecretNotFound(name) from None


RULES = (
    EgressRule(Action(allow=True, inject=(Injection("authorization", "${e2b.secrets.key}", "Bearer ${SECRET}"),))),
    EgressRule(Action(allow=True, inject=(Injection("x", "Bearer ${e2b.secrets.key}"), Injection("y", "plain")))),
    EgressRule(Action(allow=True, inject=(Injection("z", "s", "${e2b.secrets.Who}:${SECRET}"),))),
    EgressRule(Action(allow=False)),
)


def injected(rules: tuple[EgressRule, ...]) -> list[str]:
    return [one.value for rule in rules for one in rule.action.inject]


def test_values_stand_in_the_place_of_placeholders() -> None:
    found = resolved(RULES, Kept(key="k", who="me"))

    assert referenced(RULES) == {"key", "who"}
    assert injected(found) == ["Bearer k", "Bearer k", "plain", "me:s"]
    assert referenced(found) == frozenset()


def test_a_value_is_no_placeholder() -> None:
    rules = (EgressRule(Action(allow=True, inject=(Injection("x", "${e2b.secrets.key}"),))),)

    assert injected(resolved(rules, Kept(key="${e2b.secrets.who}", who="no"))) == ["${e2b.secrets.who}"]


@pytest.mark.parametrize("kept", [None, Kept(), Kept(who="me", key="two\nlines"), Kept(who="me", key="x" * 70_000)])
def test_without_a_value_that_can_be_injected_requests_are_refused(kept: Kept | None) -> None:
    policy = Policy("10.0.0.2", "box", resolved(RULES, kept))
    text = json.dumps(scope(policy))

    assert policy.rules[0].action.inject[0].missing
    assert not policy.rules[1].action.inject[1].missing
    assert "secret_missing_in_policy" in text
    assert "e2b.secrets" not in text
    assert "inject/10.0.0.2/0/authorization" not in secrets(policy)
    assert "inject/10.0.0.2/0/authorization" not in text
