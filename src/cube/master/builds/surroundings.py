"""What commands of a build run with: user, directory, variables. Steps change it, sandboxes of the template keep it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cube.model.template import ImageConfig

#: ``\$`` stays a dollar sign; ``$NAME`` and ``${NAME}`` stand for a variable.
_VARIABLE = re.compile(r"\\\$|\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
#: For ``ENV PATH=/opt/bin:$PATH`` where the image says nothing of it.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the next command runs with."""

    user: str
    #: Empty is the home directory of the user.
    workdir: str
    env: dict[str, str]
    #: Users that may run ``sudo``.
    sudo_users: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: ImageConfig) -> Surroundings:
        """Those of a template."""
        return cls(config.user, config.workdir, dict(config.env), config.sudo_users)

    def with_variables(self, pairs: Sequence[str]) -> Surroundings:
        """After an ENV step: names and values in turn; values may refer to variables that were set before."""
        env = dict(self.env)
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            env[name] = expanded(value, env)
        return replace(self, env=env)

    def expanded(self, text: str) -> str:
        """``text`` with the values of its variables."""
        return expanded(text, self.env)

    def laid_over(self, config: ImageConfig) -> ImageConfig:
        """The configuration of a template that ends with these."""
        return replace(config, user=self.user, workdir=self.workdir, env=self.env, sudo_users=self.sudo_users)


def expanded(text: str, env: Mapping[str, str]) -> str:
    """``text`` with the values of its variables; one that is not set is empty, as in a shell."""
    known = {"PATH": _PATH, **env}
    return _VARIABLE.sub(lambda found: known.get(found[1] or found[2], "") if found[0] != r"\$" else "$", text)
