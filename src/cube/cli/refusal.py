"""Settings that cannot be used, in words: which variable, what is wrong with it, and what it means."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from cube.settings import Settings

#: Values that are not shown.
_SECRET = ("key", "token")


def about_settings(error: ValueError) -> str | None:
    """Sentences about each wrong setting; ``None`` for any other error."""
    if not isinstance(error, ValidationError) or error.title != Settings.__name__:
        return None
    return "\n".join(_about(one) for one in error.errors(include_url=False))


def _about(one: Any) -> str:
    reason = one["msg"].removeprefix("Value error, ")
    name = str(one["loc"][0]) if one["loc"] else ""
    field = Settings.model_fields.get(name)
    if field is None:
        return str(reason)
    value = "" if any(word in name for word in _SECRET) else f"={one['input']!s}"
    reason = "it has another form" if one["type"] == "string_pattern_mismatch" else reason[0].lower() + reason[1:]
    return f"CUBE_{name.upper()}{value} cannot be used: {reason}. It means: {field.description}"
