"""Which names any rule speaks about: a certificate is minted for no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from cube.model.egress import EgressRule, Scheme


class Names:
    """The patterns of all policies, counted, so that asking costs a look-up per label."""

    def __init__(self) -> None:
        self._patterns: Counter[str] = Counter()

    def add(self, rules: Iterable[EgressRule]) -> None:
        """Count the names of these rules."""
        self._patterns.update(_patterns(rules))

    def remove(self, rules: Iterable[EgressRule]) -> None:
        """Take back what :meth:`add` counted for the same rules."""
        self._patterns -= Counter(_patterns(rules))

    def pattern(self, name: str) -> str | None:
        """The closest pattern of a rule that could decide an HTTPS request to this host: the name itself where a rule
        says it, else ``*.`` and the longest end of it, else ``*``; ``None`` when no rule could."""
        return next((pattern for pattern in _fitting(name) if pattern in self._patterns), None)


_ANY = "*"


def _patterns(rules: Iterable[EgressRule]) -> Iterator[str]:
    """Of every rule that can meet HTTPS: the name that it asks for, or that it asks for none."""
    for rule in rules:
        if rule.match.scheme is not Scheme.HTTP:
            yield rule.match.sni or rule.match.host or _ANY


def _fitting(name: str) -> Iterator[str]:
    yield name
    rest = name
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    yield _ANY
