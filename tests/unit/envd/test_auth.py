from __future__ import annotations

import base64
import time
from typing import Any, cast

import pytest

from cube.envd.auth import named_user, require_file_access, require_token, signature, signed_by
from cube.envd.guest import Guest
from cube.model.errors import Unauthenticated
from support.envd_server import TOKEN, make_sandbox

SANDBOX = make_sandbox(cast(Guest, None))
OPEN_SANDBOX = make_sandbox(cast(Guest, None), access_token=None)
# Published by E2B with its clients.
VECTOR = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


def test_the_published_vector() -> None:
    assert signature("hello.txt", "read", "user", TOKEN) == VECTOR
    assert signed_by(SANDBOX, {"path": "hello.txt", "username": "user", "signature": VECTOR}, "read")


def test_the_token_opens() -> None:
    require_token(scope(x_access_token=TOKEN), SANDBOX)
    require_file_access(scope(x_access_token=TOKEN), SANDBOX, {}, "read")


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", "grün"])
def test_another_token_does_not(token: str) -> None:
    with pytest.raises(Unauthenticated, match="please provide a valid access token"):
        require_token(scope(x_access_token=token), SANDBOX)


def test_without_a_token_of_its_own_a_sandbox_is_open() -> None:
    require_token(scope(), OPEN_SANDBOX)
    require_file_access(scope(), OPEN_SANDBOX, {}, "write")
    assert not signed_by(OPEN_SANDBOX, {"signature": VECTOR}, "read")


def query(path: str = "f", operation: str = "read", expiration: str = "", **changes: str) -> dict[str, str]:
    values = {"path": path, "signature": signature(path, operation, "", TOKEN, expiration)}
    return values | ({"signature_expiration": expiration} if expiration else {}) | changes


def test_a_signed_url_opens_its_file() -> None:
    require_file_access(scope(), SANDBOX, query(), "read")
    require_file_access(scope(), SANDBOX, query(expiration=str(int(time.time()) + 60)), "read")


@pytest.mark.parametrize(
    ("parameters", "operation", "message"),
    [
        ({}, "read", "missing signature query parameter"),
        (query(), "write", "invalid signature"),
        (query(path="g", signature=query()["signature"]), "read", "invalid signature"),
        (query(username="root"), "read", "invalid signature"),
        (query(signature_expiration="99999999999"), "read", "invalid signature"),
        (query(expiration="1000"), "read", "signature is already expired"),
        (query(expiration="-5"), "read", "invalid signature expiration"),
        (query(expiration="9" * 30), "read", "invalid signature expiration"),
        (query(expiration="٣"), "read", "invalid signature expiration"),
        (query(signature="grün"), "read", "invalid signature"),
    ],
)
def test_nothing_else_does(parameters: dict[str, str], operation: str, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        require_file_access(scope(), SANDBOX, parameters, operation)


def test_a_wrong_token_is_not_mended_by_a_signature() -> None:
    with pytest.raises(Unauthenticated):
        require_file_access(scope(x_access_token="wrong"), SANDBOX, query(), "read")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("value", "user"), [("", ""), (basic("root:"), "root"), (basic("a:b:c"), "a"), (basic("alone"), "alone")]
)
def test_the_user_of_basic_authorization(value: str, user: str) -> None:
    assert named_user(scope(authorization=value)) == user


@pytest.mark.parametrize("value", ["Bearer x", "Basic ???", "Basic /w==", "Basic a"])
def test_other_authorization_is_refused(value: str) -> None:
    with pytest.raises(Unauthenticated):
        named_user(scope(authorization=value))
