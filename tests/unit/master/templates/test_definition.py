"""Definitions in TOML."""

from __future__ import annotations

import pytest

from cube.master.templates import builtin
from cube.master.templates.definition import DebianSource, OciSource, TemplateSource, as_json, parse
from cube.master.templates.fingerprint import digest
from cube.model.errors import InvalidInput

SMALL = """
name = "small"
[source]
kind = "debian"
packages = ["bash"]
"""


def test_a_small_one() -> None:
    definition = parse(SMALL)
    assert definition.source == DebianSource(packages=("bash",))
    assert not definition.customises


def test_the_built_in_ones() -> None:
    base, interpreter = builtin.load()
    assert (base.name, interpreter.name) == builtin.NAMES
    assert isinstance(base.source, DebianSource)
    assert interpreter.source == TemplateSource(template="base")
    assert (interpreter.code_interpreter, interpreter.resources.memory_mb) == (True, 2048)
    assert base.config is not None
    assert (base.config.user, base.config.sudo_users) == ("user", ("user",))


def test_an_image() -> None:
    definition = parse('name = "x"\n[source]\nkind = "oci"\npath = "/srv/image.tar"\ntag = "v1"\n')
    assert isinstance(definition.source, OciSource)
    assert (str(definition.source.path), definition.source.tag) == ("/srv/image.tar", "v1")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("name = ", None),
        ('name = "x"', "source"),
        ('name = "x"\n[source]\nkind = "docker"\nimage = "y"', "source"),
        (SMALL.replace("small", "Small Name"), "name"),
        (SMALL.replace('"bash"', '"bash --option"'), "packages"),
        (SMALL.replace('"bash"', '"-y"'), "packages"),
        (SMALL.replace("packages", 'suite = "../x"\npackages'), "suite"),
        ("surprise = 1\n" + SMALL, "surprise"),
        ('python = ["--index-url=x"]\n' + SMALL, "python"),
        ('python = ["./local"]\n' + SMALL, "python"),
        ('remove = ["/etc"]\n' + SMALL, "remove"),
        (SMALL + '[[users]]\nname = "a:b"\nuid = 1\n', "users"),
        (SMALL + '[[users]]\nname = "a"\nuid = 0\n', "users"),
        (SMALL + '[[files]]\npath = "etc/x"\ncontent = ""\n', "files"),
        (SMALL + "[[run]]\nargv = []\n", "run"),
    ],
)
def test_what_is_wrong_is_named(text: str, field: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert (caught.value.field or "").split(".")[0] == (field or "")


def test_every_change_changes_the_fingerprint() -> None:
    variants = [
        SMALL,
        SMALL.replace("bash", "dash"),
        SMALL.replace("small", "large"),
        "code_interpreter = true\n" + SMALL,
    ]
    assert len({digest(as_json(parse(text))) for text in variants}) == len(variants)


def test_the_fingerprint_does_not_depend_on_the_order_of_a_table() -> None:
    first = parse(SMALL + '[config.env]\nA = "1"\nB = "2"\n')
    second = parse(SMALL + '[config.env]\nB = "2"\nA = "1"\n')
    assert digest(as_json(first)) == digest(as_json(second))
