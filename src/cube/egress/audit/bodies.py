"""Bodies of requests and answers as they may be told: decompressed, read by their type, redacted.

What cannot be read is not shown: a body in an unknown encoding could be anything.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
import zlib
from dataclasses import dataclass

import zstandard

from cube.egress.audit.redactor import Redactor, sounds_secret
from cube.model.egress import REDACTED

#: What a compressed body may become.
_MOST_BYTES = 256 * 1024
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)(\s*:)?', re.DOTALL)
_TEXTUAL = re.compile(r"(?:text/|application/(?:xml|javascript|graphql|yaml|x-yaml|toml)|[^;]*\+xml)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Body:
    """The beginning of a body."""

    data: bytes
    content_type: str = ""
    encoding: str = ""
    #: Whether there was more of it.
    cut: bool = False


def told(body: Body, redactor: Redactor) -> str | None:
    """The body as it may be written down; ``None`` where there was none."""
    if not body.data:
        return None
    data = _decoded(body)
    if data is None:
        return f"<{len(body.data)} bytes of encoding {redactor.known(body.encoding)[:32]}>"
    kind = body.content_type.partition(";")[0].strip().lower()
    try:
        text = data.decode("utf-8", errors="strict" if not body.cut else "ignore")
    except UnicodeDecodeError:
        return f"<{len(data)} bytes of {kind[:64] or 'no type'}>"
    shown = _by_type(text, kind, body, redactor)
    return f"{shown}…" if body.cut else shown


def _by_type(text: str, kind: str, body: Body, redactor: Redactor) -> str:
    if kind == "application/x-www-form-urlencoded":
        return redactor.form(text)
    if kind == "multipart/form-data":
        return _multipart(text, body.content_type, redactor)
    if kind.endswith("json") or text.lstrip()[:1] in ("{", "["):
        return _json(text, redactor)
    if kind and not _TEXTUAL.match(kind):
        return f"<{len(text.encode())} bytes of {kind[:64]}>"
    return "\n".join(_line(line, redactor) for line in text.split("\n"))


def _json(text: str, redactor: Redactor) -> str:
    try:
        return json.dumps(redactor.value(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and all(line.lstrip()[:1] in ("{", "[") for line in lines):
        return "\n".join(_line(line, redactor) for line in lines)
    return _without_texts(text)


def _line(line: str, redactor: Redactor) -> str:
    """A line of text, of server-sent events or of lines of JSON."""
    prefix = "data: " if line.startswith("data:") else ""
    rest = line.removeprefix("data:").strip() if prefix else line
    if rest[:1] in ("{", "["):
        try:
            return prefix + json.dumps(redactor.value(json.loads(rest)), ensure_ascii=False)
        except (ValueError, RecursionError):
            return prefix + _without_texts(rest)
    return prefix + redactor.scrub(rest)


def _without_texts(text: str) -> str:
    """JSON that is not whole: which text belongs to which name cannot be said, so names alone stay."""
    return _JSON_TEXT.sub(lambda found: found.group(0) if found.group(1) else f'"{REDACTED}"', text)


def _multipart(text: str, content_type: str, redactor: Redactor) -> str:
    parser = email.parser.Parser(policy=email.policy.HTTP)
    message = parser.parsestr(f"Content-Type: {content_type}\r\n\r\n{text}")
    if not message.is_multipart():
        return f"<{len(text.encode())} bytes of multipart/form-data>"
    parts = {}
    for number, part in enumerate(message.iter_parts()):
        name = str(part.get_param("name", header="content-disposition") or number)
        content = str(part.get_payload()).strip()
        if part.get_filename() is not None:
            content = f"<file of {len(content)} bytes>"
        parts[redactor.known(name)] = REDACTED if sounds_secret(name) else redactor.scrub(content)
    return json.dumps(parts, ensure_ascii=False)


def _decoded(body: Body) -> bytes | None:
    """The body without its compression, ``None`` when that is not known or broken."""
    data = body.data
    for encoding in reversed([part.strip().lower() for part in body.encoding.split(",") if part.strip()]):
        if encoding == "identity":
            continue
        unpacked = _unpacked(data, encoding)
        if unpacked is None:
            return None
        data = unpacked
    return data


def _unpacked(data: bytes, encoding: str) -> bytes | None:
    try:
        if encoding in ("gzip", "x-gzip"):
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, _MOST_BYTES)
        if encoding == "deflate":
            return _inflated(data)
        if encoding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                return reader.read(_MOST_BYTES)
    except (zlib.error, zstandard.ZstdError):
        return None
    return None


def _inflated(data: bytes) -> bytes:
    """Servers mean one of two formats by `deflate`."""
    try:
        return zlib.decompressobj().decompress(data, _MOST_BYTES)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _MOST_BYTES)
