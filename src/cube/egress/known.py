"""The secrets that sandboxes' rules inject, so that the audit log can hide them should a server echo them."""

from __future__ import annotations

from collections import OrderedDict

from cube.egress.compile import Policy

#: Policies that are remembered beyond their end: their last requests are written down after it.
_MOST_FORMER = 4096
#: Secrets of one address: those before a change of its rules are still in answers under way.
_MOST_SECRETS = 512


class KnownSecrets:
    """Secrets by address, those of changed and removed policies for a while too."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def add(self, policy: Policy) -> None:
        """Remember what a policy injects."""
        found = {value for rule in policy.rules for one in rule.action.inject for value in (one.secret, one.value)}
        former = self._secrets.pop(policy.address, ())
        self._secrets[policy.address] = tuple(dict.fromkeys((*found, *former)))[:_MOST_SECRETS]
        while len(self._secrets) > _MOST_FORMER:
            self._secrets.popitem(last=False)

    def of(self, address: str) -> tuple[str, ...] | None:
        """The secrets of an address; ``None`` when its rules are not known any more."""
        return self._secrets.get(address)
