"""Secrets of clients: values that are kept here and put into requests on their way out of a sandbox, never into it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cube.model.errors import InvalidInput

#: Begins the ids of secrets, and so no name of one.
ID_PREFIX = "sec_"
#: What a secret may be called: it stands in placeholders and in URLs.
NAME = r"[^\s{}/?#%\\\x00-\x1f\x7f-\x9f]{1,128}"
_NAME = re.compile(NAME)
_REFERENCE = re.compile(r"\$\{e2b\.secrets\.([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Secret:
    """What may be told about a secret: everything but its value."""

    secret_id: str
    #: In lower case.
    name: str
    #: Counts the values that it has had.
    version: int
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


def canonical_name(name: str) -> str:
    """The form in which a name is kept and looked up. Raises ``InvalidInput`` for what cannot be one."""
    name = name.lower()
    if _NAME.fullmatch(name) is None:
        rule = "must be 1 to 128 characters, without blanks, control characters and any of {}/?#%\\"
        raise InvalidInput(f"name {rule}", field="name")
    if name.startswith(ID_PREFIX):
        raise InvalidInput(f"name must not begin with {ID_PREFIX}, as ids do", field="name")
    return name


def references(text: str) -> frozenset[str]:
    """The names of the secrets that a text has placeholders for: ``${e2b.secrets.<name>}``."""
    return frozenset(match.group(1).lower() for match in _REFERENCE.finditer(text))


def fill(text: str, value_of: Callable[[str], str]) -> str:
    """A text with every placeholder replaced by the value of its secret; the values are taken as they are."""
    return _REFERENCE.sub(lambda match: value_of(match.group(1).lower()), text)


class SecretResolver(Protocol):
    """Turns placeholders into values, at the moment at which they are needed."""

    def resolve(self, text: str) -> str:
        """The text with its secrets in it. Raises ``SecretNotFound`` for one that does not exist (any more)."""
        ...

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(name)`` called on the event loop whenever a secret gets another value, comes or goes."""
        ...
