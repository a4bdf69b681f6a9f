"""Names of languages and the kernels that run them."""

from __future__ import annotations

from enum import StrEnum

from cube.model.errors import InvalidInput


class Language(StrEnum):
    """What a context runs. TypeScript shares the kernel, and the variables, of JavaScript."""

    PYTHON = "python"
    JAVASCRIPT = "javascript"
    TYPESCRIPT = "typescript"
    BASH = "bash"
    R = "r"
    JAVA = "java"

    @property
    def kernel(self) -> Language:
        """The language whose default context serves this one."""
        return Language.JAVASCRIPT if self is Language.TYPESCRIPT else self


_ALIASES = {"py": "python", "python3": "python", "js": "javascript", "ts": "typescript", "sh": "bash"}


def language(name: str) -> Language:
    """The language of a name; raises ``InvalidInput`` for one that no kernel here runs."""
    plain = name.strip().lower()
    try:
        return Language(_ALIASES.get(plain, plain))
    except ValueError:
        raise InvalidInput(
            f"No kernel for language {name[:60]!r}; use python, javascript, typescript, bash, r or java.",
            field="language",
        ) from None
