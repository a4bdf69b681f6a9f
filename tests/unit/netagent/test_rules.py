from __future__ import annotations

from cube.netagent.firewall import Firewall
from cube.settings import Settings


def test_rules_name_one_instance_only() -> None:
    rules = Firewall(Settings(instance="blue", proxy_uid=4711)).rules
    assert "table inet blue" in rules
    assert '"blue-*"' in rules
    assert "skuid 4711" in rules
    assert "cube" not in rules


def test_replacement_is_one_transaction_that_flushes_nothing() -> None:
    rules = Firewall(Settings(instance="blue")).rules
    assert rules.startswith("add table inet blue\ndelete table inet blue\n")
    assert "flush" not in rules
