"""Names and tags that clients give to templates."""

from __future__ import annotations

from collections.abc import Sequence

from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.model.builds import TAG
from cube.model.errors import Conflict, InvalidInput, TemplateNotFound
from cube.model.ids import TEMPLATE_REF
from cube.model.snapshot import SNAPSHOT_ID


def checked_name(name: str, catalogue: TemplateCatalogue) -> tuple[str, list[str]]:
    """A name without its tag, and the tag where it has one.

    Raises ``InvalidInput``, ``Conflict`` when it is the name of a template of this machine.
    """
    bare, _, tag = name.partition(":")
    if TEMPLATE_REF.fullmatch(name) is None or SNAPSHOT_ID.fullmatch(bare) or bare.startswith("tpl-"):
        raise InvalidInput("name must be like `my-template` or `my-template:v2`, in lower case", field="name")
    try:
        found = catalogue.resolve(bare)
    except TemplateNotFound:
        return bare, [tag] if tag else []
    raise Conflict(f"name: {bare!r} is that of template {found.template_id} of this machine: choose another one")


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Tags; raises ``InvalidInput``."""
    for tag in tags:
        if TAG.fullmatch(tag) is None:
            raise InvalidInput("tags must be of letters, digits, `.`, `_` and `-`", field="tags")
    return list(dict.fromkeys(tags))
