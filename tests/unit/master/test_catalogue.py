from __future__ import annotations

import pytest

from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.model.errors import InvalidInput, TemplateNotFound
from support.fake_node import BASE, INTERPRETER

REFERENCES = ["tpl-code", "code-interpreter-v1", "team/code:v2", "code-interpreter-v1:default"]
CATALOGUE = TemplateCatalogue(lambda: [BASE, INTERPRETER])


@pytest.mark.parametrize(
    "reference", ["tpl-code", "code-interpreter-v1", "team/code:v2", "code-interpreter-v1:default"]
)
def test_a_template_is_found_by_id_and_by_every_name(reference: str) -> None:
    assert CATALOGUE.resolve(reference) is INTERPRETER


@pytest.mark.parametrize("reference", ["nope", "base:v9", "team/base", "code:v2"])
def test_an_unknown_reference_is_not_found(reference: str) -> None:
    with pytest.raises(TemplateNotFound, match=reference):
        CATALOGUE.resolve(reference)


@pytest.mark.parametrize("reference", ["", "../etc", "a b", "A", "a/b/c", "base:", "x" * 200, "base\n"])
def test_what_can_be_no_reference_is_invalid(reference: str) -> None:
    with pytest.raises(InvalidInput) as error:
        CATALOGUE.resolve(reference)
    assert error.value.field == "templateID"


def test_an_alias_is_a_name_and_not_an_id() -> None:
    assert CATALOGUE.by_alias("base") is BASE
    with pytest.raises(TemplateNotFound):
        CATALOGUE.by_alias("tpl-base")


def test_templates_are_looked_up_anew_newest_first() -> None:
    templates = [BASE]
    catalogue = TemplateCatalogue(lambda: templates)
    templates.append(INTERPRETER)
    assert list(catalogue.all()) == [INTERPRETER, BASE]
