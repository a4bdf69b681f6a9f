"""Bodies of requests."""

from __future__ import annotations

import pytest

from cube.envd.interpreter.kernel import Cell
from cube.envd.interpreter.languages import Language, language
from cube.envd.interpreter.requests import ContextRequest, ExecuteRequest, parse_context, parse_execute
from cube.model.errors import InvalidInput


def test_execute_as_the_python_client_sends_it() -> None:
    body = b'{"code": "1", "context_id": null, "language": null, "env_vars": null}'
    assert parse_execute(body) == ExecuteRequest(Cell("1"), None, Language.PYTHON)


def test_execute_with_everything() -> None:
    request = parse_execute(b'{"code": "1", "language": "ts", "env_vars": {"A": "b"}}')
    assert request == ExecuteRequest(Cell("1", {"A": "b"}, typescript=True), None, Language.TYPESCRIPT)
    assert parse_execute(b'{"code": "1", "context_id": "c"}').context_id == "c"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"null", None),
        (b"{}", "code"),
        (b'{"code": null}', "code"),
        (b'{"code": ["x"]}', "code"),
        (b'{"code": "1", "context_id": "a", "language": "python"}', "language"),
        (b'{"code": "1", "context_id": 5}', "context_id"),
        (b'{"code": "1", "language": "cobol"}', "language"),
        (b'{"code": "1", "env_vars": []}', "env_vars"),
        (b'{"code": "1", "env_vars": {"A": 1}}', "env_vars"),
        (b'{"code": "1", "env_vars": {"": "1"}}', "env_vars"),
        (b'{"code": "1", "env_vars": {"A": "\\u0000"}}', "env_vars"),
    ],
)
def test_bad_execute(body: bytes, field: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_execute(body)
    assert caught.value.field == field


def test_context() -> None:
    assert parse_context(b"") == parse_context(b"{}") == ContextRequest(Language.PYTHON, "")
    assert parse_context(b'{"language": "bash", "cwd": "/x"}') == ContextRequest(Language.BASH, "/x")


@pytest.mark.parametrize("body", [b'{"cwd": 1}', b'{"cwd": "a\\u0000"}', b'{"language": "cobol"}', b"[]"])
def test_bad_context(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_context(body)


@pytest.mark.parametrize(("name", "expected"), [("JS", "javascript"), (" python ", "python"), ("ts", "typescript")])
def test_names_of_languages(name: str, expected: str) -> None:
    assert language(name) == expected


def test_typescript_shares_the_kernel_of_javascript() -> None:
    assert Language.TYPESCRIPT.kernel is Language.JAVASCRIPT
    assert Language.BASH.kernel is Language.BASH
