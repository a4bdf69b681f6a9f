"""The manifest of a template: the JSON file that lies beside its image.

``{"format": 1, "template": {…}, "build": {…}}``. ``template`` is :class:`cube.model.template.Template`, ``build`` says
how the image came about and is for people and for :mod:`cube.master.templates` alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cube.model.errors import InvalidInput
from cube.model.ids import TEMPLATE_REF
from cube.model.template import Template

FORMAT = 1
#: Largest manifest that is read, in bytes: a build record lists a few thousand packages.
MAX_BYTES = 4 << 20
TEMPLATE_ID = re.compile(r"tpl-[a-z0-9]{1,40}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TEMPLATE: TypeAdapter[Template] = TypeAdapter(Template)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A template and the record of its build."""

    template: Template
    build: dict[str, Any] = field(default_factory=dict)


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; the same manifest always gives the same bytes."""
    document = {
        "format": FORMAT,
        "template": _TEMPLATE.dump_python(manifest.template, mode="json"),
        "build": manifest.build,
    }
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def decode(data: bytes) -> Manifest:
    """Read a manifest; raises ``InvalidInput`` that names what is wrong."""
    document = _document(data)
    template = _template(document.get("template"))
    build = document.get("build", {})
    if not isinstance(build, dict):
        raise InvalidInput("the build record of a template manifest must be an object", field="build")
    return Manifest(template, build)


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"the template manifest is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the template manifest is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInput(f"the template manifest is not of format {FORMAT}", field="format")
    return document


def _template(value: object) -> Template:
    try:
        template = _TEMPLATE.validate_json(json.dumps(value), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"the template manifest is wrong at {where!r}: {first['msg']}", field=where) from error
    check(template)
    return template


def check(template: Template) -> None:
    """Refuse a template whose values could not have come from a build; raises ``InvalidInput``."""
    _require(TEMPLATE_ID.fullmatch(template.template_id), "template_id", "must be `tpl-` and lower-case alphanumerics")
    _require(_FILE_NAME.fullmatch(template.image), "image", "must be a plain file name")
    _require(template.image_bytes > 0, "image_bytes", "must be positive")
    _require(template.fingerprint, "fingerprint", "must not be empty")
    _require(template.created_at.utcoffset() is not None, "created_at", "must carry a time zone")
    for name in template.names:
        _require(TEMPLATE_REF.fullmatch(name), "names", f"holds {name!r}, which is no valid template name")


def _require(condition: object, name: str, rule: str) -> None:
    if not condition:
        raise InvalidInput(f"{name} of the template manifest {rule}", field=name)
