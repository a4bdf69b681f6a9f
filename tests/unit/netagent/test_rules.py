from __future__ import annotations

from cube.netagent import ruleset
from cube.settings import Settings


def test_rules_name_one_instance_only() -> None:
    rules = ruleset.replacement(Settings(instance="blue", proxy_uid=4711), 20053)
    assert "table inet blue" in rules
    assert '"blue-*"' in rules
    assert "skuid 4711" in rules
    assert "cube" not in rules


def test_replacement_is_one_transaction_that_flushes_nothing() -> None:
    rules = ruleset.replacement(Settings(instance="blue"), None)
    assert rules.startswith("add table inet blue\ndelete table inet blue\n")
    assert "flush" not in rules


def test_an_update_keeps_the_sets() -> None:
    rules = ruleset.update(Settings(instance="blue"), None)
    assert rules.startswith("add table inet blue\nflush table inet blue\n")
    assert "delete" not in rules


def test_without_a_resolver_no_port_is_named() -> None:
    rules = ruleset.table(Settings(instance="blue"), None)
    assert "dport set" not in rules
    assert "sport set" not in rules
