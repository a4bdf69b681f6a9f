"""Names of things: how ids are made and what a valid one looks like."""

from __future__ import annotations

import re
import secrets
import string

_ALNUM = string.ascii_lowercase + string.digits

#: Lower-case alphanumerics only: the id stands in host names (``<port>-<id>.<domain>``), where a dash splits.
SANDBOX_ID = re.compile(r"[a-z0-9]{1,40}")
#: ``name`` or ``name:tag`` or ``namespace/name[:tag]``, as E2B writes template references.
TEMPLATE_REF = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}(/[a-z0-9][a-z0-9._-]{0,127})?(:[A-Za-z0-9._-]{1,128})?")


def new_sandbox_id() -> str:
    """A fresh sandbox id: ``i`` and 19 random characters, about 98 bits (the form that E2B's service uses)."""
    # 19 digits in base 36 of 128 random bits: the highest ones are cut off, so the rest is even.
    number, text = int.from_bytes(secrets.token_bytes(16)), ""
    for _ in range(19):
        number, digit = divmod(number, len(_ALNUM))
        text += _ALNUM[digit]
    return "i" + text


def new_template_id() -> str:
    """A fresh template id, ``tpl-`` and 24 hexadecimal digits."""
    return "tpl-" + secrets.token_hex(12)


def new_snapshot_id() -> str:
    """A fresh snapshot id, ``snap-`` and 24 hexadecimal digits."""
    return "snap-" + secrets.token_hex(12)


def new_volume_id() -> str:
    """A fresh volume id, ``vol-`` and 24 hexadecimal digits."""
    return "vol-" + secrets.token_hex(12)


def new_secret_id() -> str:
    """A fresh id of a client's secret, ``sec_`` and 24 hexadecimal digits."""
    return "sec_" + secrets.token_hex(12)


def new_token() -> str:
    """A bearer token of 256 bits for one sandbox's envd or public traffic."""
    return secrets.token_urlsafe(32)


def is_sandbox_id(text: str) -> bool:
    """Whether ``text`` could be a sandbox id; says nothing about whether it exists."""
    return SANDBOX_ID.fullmatch(text) is not None
