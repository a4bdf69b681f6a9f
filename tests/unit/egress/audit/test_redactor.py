"""What must not be in the audit log is not, and what may be still is."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any
from urllib.parse import quote

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cube.egress.audit.bodies import Body, told
from cube.egress.audit.redactor import Redactor, sounds_secret
from cube.model.egress import REDACTED

SECRET = 'S3CR3T/"of the+test'
redactor = Redactor([SECRET, f"Bearer {SECRET}"])


CREDENTIALS = """password Pass-Word user_password token access_token apiKey X-API-Key client_secret sessionid Set-Cookie
    aws_secret_access_key sig key AUTH X-Amz-Signature authorization"""


@pytest.mark.parametrize("name", CREDENTIALS.split())
def test_names_of_credentials(name: str) -> None:
    assert sounds_secret(name)


@pytest.mark.parametrize(
    "name", ["name", "model", "author", "keyboard", "monkey", "passenger", "design", "tools", "content"]
)
def test_names_of_other_things(name: str) -> None:
    assert not sounds_secret(name)


def test_headers_that_are_not_known_keep_their_name_alone() -> None:
    table = {
        "Accept": "*/*",
        "Authorization": "x",
        "Cookie": "a=b",
        "X-Custom": "y",
        "proxy-authorization": "z",
        "range": None,
    }

    assert redactor.headers(table) == {
        "Accept": "*/*",
        "Authorization": REDACTED,
        "Cookie": REDACTED,
        "X-Custom": REDACTED,
        "proxy-authorization": REDACTED,
    }


def test_a_hundred_headers_are_told() -> None:
    assert len(redactor.headers({f"x{number}": "y" for number in range(300)})) == 100


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a/b", "/a/b"),
        ("/a?b=c&d=e", f"/a?b={REDACTED}&d={REDACTED}"),
        ("/a?b=", f"/a?b={REDACTED}"),
        ("/a?justavalue", f"/a?{REDACTED}"),
        ("/a?b=c=d", f"/a?b={REDACTED}"),
        ("/a?", "/a?"),
        ("/files/sk-abcdefgh12345678/x", f"/files/{REDACTED}/x"),
        (f"/a/{quote(SECRET, safe='')}", f"/a/{REDACTED}"),
    ],
)
def test_queries_keep_their_names(target: str, expected: str) -> None:
    assert redactor.target(target) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef123456",
        "curl -H 'x: Basic dXNlcjpwYXNz'",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc123",
        "my key is sk-proj-abcdefgh12345678",
        "ghp_abcdefghijklmnop1234",
        "AKIAABCDEFGHIJKLMNOP",
        "xoxb-123456789012-abcdef",
        "postgres://user:hunter2@db/x",
        "password=hunter2",
        "password: 'hunter2'",
        '"token" : "hunter2"'.replace('"token"', "token"),
        "-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ncut off abc",
    ],
)
def test_well_known_credentials_in_texts(text: str) -> None:
    shown = redactor.scrub(text)

    assert REDACTED in shown
    for secret in ("abcdef123456", "dXNlcjpwYXNz", "eyJzdWIi", "abcdefgh", "hunter2", "abcdef", "abc\n"):
        assert secret not in shown


def test_ordinary_text_is_left_alone() -> None:
    text = "The quick brown fox: model=gpt-4, temperature=0.7; see https://a.test/x?y=z and mail me@a.test."

    assert redactor.scrub(text) == text


FORMS = [
    SECRET,
    json.dumps(SECRET),
    quote(SECRET),
    quote(SECRET, safe=""),
    base64.b64encode(SECRET.encode()).decode(),
    SECRET.encode().hex(),
]


@pytest.mark.parametrize("form", FORMS)
def test_e7_the_sandboxes_own_secrets_are_hidden_in_every_form(form: str) -> None:
    assert form.strip("=") not in redactor.scrub(f"echo {form}!")
    assert form.strip("=") not in str(
        told(Body(json.dumps({"headers": {"x": form}}).encode(), "application/json"), redactor)
    )


def shown(data: bytes, kind: str = "application/json", **more: Any) -> str:
    return told(Body(data, kind, **more), redactor) or ""


BODY = json.dumps(
    {"user": "me", "password": "hunter2", "deep": [{"api_key": "hunter2", "n": 1}], "text": "token=hunter2"}
)
DEFLATED = zlib.compress(BODY.encode())


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (BODY.encode(), ""),
        (BODY.encode(), "identity"),
        (gzip.compress(BODY.encode(), mtime=0), "gzip"),
        (DEFLATED, "deflate"),
        (DEFLATED[2:-4], "deflate"),
        (zstandard.compress(BODY.encode()), "zstd"),
        (gzip.compress(zlib.compress(BODY.encode()), mtime=0), "deflate, gzip"),
    ],
)
def test_e10_json_bodies_are_redacted_in_any_compression(data: bytes, encoding: str) -> None:
    body = json.loads(shown(data, encoding=encoding))

    assert body == {
        "user": "me",
        "password": REDACTED,
        "deep": [{"api_key": REDACTED, "n": 1}],
        "text": f"token={REDACTED}",
    }


@pytest.mark.parametrize("encoding", ["br", "unheard-of", "gzip"])
def test_what_cannot_be_read_is_not_shown(encoding: str) -> None:
    assert shown(b"hunter2 password", encoding=encoding) == f"<16 bytes of encoding {encoding}>"


def test_a_compressed_bomb_is_cut() -> None:
    assert len(shown(gzip.compress(b" " * 50_000_000, mtime=0), "text/plain", encoding="gzip")) < 300_000


@pytest.mark.parametrize("size", range(1, len(BODY)))
def test_json_that_is_cut_off_anywhere_shows_no_value(size: int) -> None:
    part = shown(BODY[:size].encode(), cut=True)

    assert "hunter2"[:3] not in part
    assert part.endswith("…")


def test_a_compressed_body_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    data = gzip.compress(json.dumps({"name": "a" * 10, "password": "hunter2" * 500}).encode(), 0)[:200]

    part = shown(data, encoding="gzip", cut=True)

    assert '"name"' in part
    assert "hunter2" not in part


def test_forms_are_redacted() -> None:
    body = shown(b"user=me&password=hunter2&note=Bearer+abcdef123", "application/x-www-form-urlencoded; charset=utf-8")

    assert body.startswith("user=me&password=***REDACTED***&note=Bearer")
    assert "abcdef123" not in body


def test_multipart_forms_are_redacted() -> None:
    text = (
        '--B\r\nContent-Disposition: form-data; name="user"\r\n\r\nme\r\n'
        '--B\r\nContent-Disposition: form-data; name="password"\r\n\r\nhunter2\r\n'
        '--B\r\nContent-Disposition: form-data; name="f"; filename="x.env"\r\n\r\nA=hunter2\r\n--B--\r\n'
    )

    body = shown(text.encode(), 'multipart/form-data; boundary="B"')

    assert json.loads(body) == {"user": "me", "password": REDACTED, "f": "<file of 9 bytes>"}


def test_lines_of_json_and_events_are_redacted() -> None:
    lines = b'{"token": "hunter2"}\n{"a": 1}\n'
    events = b'event: x\ndata: {"token": "hunter2", "delta": "hi"}\n\ndata: [DONE]\n'

    assert "hunter2" not in shown(lines, "application/x-ndjson")
    assert "hunter2" not in shown(events, "text/event-stream")
    assert '"delta": "hi"' in shown(events, "text/event-stream")


def test_json_inside_of_a_text_is_looked_into() -> None:
    body = json.dumps({"arguments": json.dumps({"password": "hunter2", "q": "x"})})

    assert "hunter2" not in shown(body.encode())


def test_binary_bodies_are_counted() -> None:
    assert shown(b"\x89PNG\xff\xfe", "image/png") == "<6 bytes of image/png>"
    assert shown(b"plain", "application/octet-stream") == "<5 bytes of application/octet-stream>"
    assert told(Body(b""), redactor) is None


def test_deep_json_is_no_way_out() -> None:
    deep = b'{"a":' * 20_000 + b'"hunter2"' + b"}" * 20_000

    assert "hunter2" not in shown(deep)


@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "text/plain", "multipart/form-data"]))
def test_any_body_is_told_or_counted(data: bytes, kind: str) -> None:
    told(Body(data, kind, cut=True), redactor)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5))
def test_json_without_secrets_stays_json(value: dict[str, str]) -> None:
    json.loads(shown(json.dumps(value).encode()))
