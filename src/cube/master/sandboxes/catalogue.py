"""Which templates there are, by id and by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cube.model.errors import InvalidInput, TemplateNotFound
from cube.model.ids import TEMPLATE_REF
from cube.model.template import Template

#: The tag that a reference without one means.
_DEFAULT_TAG = ":default"
_MALFORMED = "templateID must be a template id, or a name such as `base` or `team/base:v2`"


@dataclass(frozen=True, slots=True)
class TemplateCatalogue:
    """The templates of a node, looked up anew each time: they come and go while the service runs."""

    templates: Callable[[], Sequence[Template]]

    def all(self) -> Sequence[Template]:
        """All of them, newest first."""
        return sorted(self.templates(), key=lambda template: (template.created_at, template.template_id), reverse=True)

    def resolve(self, reference: str) -> Template:
        """The template with this id or name (``name``, ``name:tag``, ``namespace/name``).

        Raises ``InvalidInput`` when it cannot be a reference at all, ``TemplateNotFound`` when nothing has it.
        """
        if TEMPLATE_REF.fullmatch(reference) is None:
            raise InvalidInput(_MALFORMED, field="templateID")
        found = self._find(reference) or self._find(reference.removesuffix(_DEFAULT_TAG))
        if found is None:
            raise TemplateNotFound(reference)
        return found

    def by_alias(self, alias: str) -> Template:
        """The template that has this name; an id is not a name. Raises ``TemplateNotFound``."""
        for template in self.templates():
            if alias in template.names:
                return template
        raise TemplateNotFound(alias[:200])

    def _find(self, reference: str) -> Template | None:
        for template in self.templates():
            if reference == template.template_id or reference in template.names:
                return template
        return None
