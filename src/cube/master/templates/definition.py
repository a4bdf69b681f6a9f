"""What a template shall be: the input of a build, and how it is written in TOML."""

from __future__ import annotations

import re
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from cube.model.errors import InvalidInput
from cube.model.ids import TEMPLATE_REF
from cube.model.resources import Resources
from cube.model.template import ImageConfig

_STRICT = ConfigDict(extra="forbid")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@validated(frozen=True, slots=True, config=_STRICT)
class DebianSource:
    """A new Debian system with these packages; an empty suite means that of the machine."""

    packages: tuple[str, ...]
    suite: str = ""
    kind: Literal["debian"] = "debian"


@validated(frozen=True, slots=True, config=_STRICT)
class OciSource:
    """An OCI layout directory or archive, or what ``docker save`` writes; ``tag`` where it holds several images."""

    path: Path
    tag: str = ""
    kind: Literal["oci"] = "oci"


@validated(frozen=True, slots=True, config=_STRICT)
class TemplateSource:
    """The files of another template, by id or name."""

    template: str
    kind: Literal["template"] = "template"


Source = Annotated[DebianSource | OciSource | TemplateSource, Field(discriminator="kind")]


@validated(frozen=True, slots=True, config=_STRICT)
class User:
    """An account with a home directory; without a password."""

    name: str
    uid: int


@validated(frozen=True, slots=True, config=_STRICT)
class File:
    """A text file owned by root."""

    path: str
    content: str
    mode: int = 0o644


@validated(frozen=True, slots=True, config=_STRICT)
class Command:
    """A program to run once inside the tree, without network."""

    argv: tuple[str, ...]
    user: str = "root"


@validated(frozen=True, slots=True, config=_STRICT)
class Definition:
    """A template to build. ``users`` to ``run`` are done in this order, and need a tree made of Debian packages:
    nothing of a foreign image is ever run on the host."""

    name: str
    source: Source
    users: tuple[User, ...] = ()
    files: tuple[File, ...] = ()
    #: Debian packages, with what they need, beside those of the source.
    packages: tuple[str, ...] = ()
    #: Requirements as pip takes them; installed for Debian's Python.
    python: tuple[str, ...] = ()
    #: Patterns of paths to remove, as ``pathlib`` globs relative to the root. What ``python`` brought is compiled next.
    remove: tuple[str, ...] = ()
    run: tuple[Command, ...] = ()
    #: Laid over the configuration of the source.
    config: ImageConfig | None = None
    resources: Resources = field(default_factory=Resources)
    code_interpreter: bool = False
    #: Whether programs in it shall believe the outbound proxy: HTTPS by egress rules needs that.
    with_cube_ca: bool = True

    @property
    def customises(self) -> bool:
        """Whether the build runs programs of the tree."""
        return bool(self.users or self.files or self.packages or self.python or self.run or self.remove)


_DEFINITION: TypeAdapter[Definition] = TypeAdapter(Definition)


def parse(text: str) -> Definition:
    """Read a definition in TOML; raises ``InvalidInput`` that names the field."""
    try:
        return check(_DEFINITION.validate_python(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"the template definition is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"the template definition is wrong at {where!r}: {first['msg']}", field=where) from error


def as_json(definition: Definition) -> object:
    """The definition as plain JSON values, for the fingerprint."""
    return _DEFINITION.dump_python(definition, mode="json")


def check(definition: Definition) -> Definition:
    """Refuse what no build can carry out; raises ``InvalidInput``."""
    _require(TEMPLATE_REF.fullmatch(definition.name), "name", "is no valid template name")
    if isinstance(definition.source, DebianSource):
        _require(all(map(_PACKAGE.fullmatch, definition.source.packages)), "packages", "holds what is no package name")
        _require(re.fullmatch(r"[a-z]*", definition.source.suite), "suite", "is no Debian code name")
    _require(all(map(_PACKAGE.fullmatch, definition.packages)), "packages", "holds what is no package name")
    _require(all(_USER_NAME.fullmatch(user.name) for user in definition.users), "users", "holds what is no user name")
    _require(all(1 <= user.uid < 65534 for user in definition.users), "users", "has a uid that is not in 1..65533")
    _require(all(file.path.startswith("/") for file in definition.files), "files", "needs absolute paths")
    _require(
        not any(item.startswith(("-", ".")) for item in definition.python), "python", "holds what is no requirement"
    )
    _require(all(command.argv for command in definition.run), "run", "holds an empty command")
    _require(
        not any(item.startswith("/") for item in definition.remove), "remove", "needs patterns relative to the root"
    )
    return definition


def _require(condition: object, name: str, rule: str) -> None:
    if not condition:
        raise InvalidInput(f"{name} of the template definition {rule}", field=name)
