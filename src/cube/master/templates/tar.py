"""A strict reader of tar streams: ustar, pax and GNU long names (pax(1) of POSIX.1-2008, tar(5)).

Made for hostile input, unlike :mod:`tarfile`: nothing is read into memory without a bound, nothing is seeked, and what
is malformed or unknown ends the archive with an error instead of being taken for its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cube.model.errors import InvalidInput

_BLOCK = 512
_CHUNK = 1 << 18
#: Most bytes of extended headers of one member; xattrs are the only large part.
_MAX_EXTENDED = 1 << 20
_XATTR = "SCHILY.xattr."


class Readable(Protocol):
    """Where bytes come from; fewer than asked for only at the end."""

    def read(self, size: int, /) -> bytes: ...


class Kind(Enum):
    """What a member is, by its type flag."""

    FILE = "0"
    HARD_LINK = "1"
    SYMLINK = "2"
    CHARACTER_DEVICE = "3"
    BLOCK_DEVICE = "4"
    DIRECTORY = "5"
    FIFO = "6"


@dataclass(slots=True)
class Member:
    """The header of one member; names as they stand in the archive, unchecked."""

    name: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)


class TarReader:
    """Iterate over the members; :meth:`read` and :meth:`chunks` give the content of the one that came last."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._global: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        """Raises ``InvalidInput`` where the archive is damaged or cut off."""
        while (header := self._header()) is not None:
            member = self._member(header)
            self._left = member.size
            self._padding = -member.size % _BLOCK
            yield member
            self._skip()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes of the content, empty at its end."""
        data = self._stream.read(min(size, self._left))
        if not data and self._left and size:
            raise InvalidInput("the archive is cut off in the middle of a file")
        self._left -= len(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """The rest of the content in pieces."""
        while data := self.read(_CHUNK):
            yield data

    def _skip(self) -> None:
        for _ in self.chunks():
            pass
        self._exactly(self._padding)

    def _header(self) -> bytes | None:
        """The next header block, ``None`` at the end of the archive."""
        block = self._stream.read(_BLOCK)
        if not block or block == bytes(_BLOCK):
            return None
        if len(block) < _BLOCK:
            raise InvalidInput("the archive is cut off in the middle of a header")
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise InvalidInput("the archive has a header with a wrong checksum")
        return block

    def _member(self, header: bytes) -> Member:
        """The member that starts here, with the extended headers in front of it."""
        extended: dict[str, bytes] = dict(self._global)
        while (flag := header[156:157]) in b"xgLK":
            self._extend(flag, header, extended)
            following = self._header()
            if following is None:
                raise InvalidInput("the archive ends after an extended header")
            header = following
        return _overlaid(_plain(header), extended)

    def _extend(self, flag: bytes, header: bytes, extended: dict[str, bytes]) -> None:
        data = self._extension(_number(header[124:136]))
        if flag == b"x":
            extended.update(_pax_records(data))
        elif flag == b"g":
            self._global.update(_pax_records(data))
            extended.update(self._global)
        else:
            extended["path" if flag == b"L" else "linkpath"] = data.rstrip(b"\0")

    def _extension(self, size: int) -> bytes:
        if size > _MAX_EXTENDED:
            raise InvalidInput(f"the archive has an extended header of more than {_MAX_EXTENDED} bytes")
        data = self._exactly(size)
        self._exactly(-size % _BLOCK)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size) if size else b""
        if len(data) != size:
            raise InvalidInput("the archive is cut off")
        return data


def _plain(header: bytes) -> Member:
    """What the header block itself says."""
    kind = _kind(header[156:157])
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    if kind is Kind.FILE and name.endswith("/"):  # before there was a type for directories
        kind = Kind.DIRECTORY
    return Member(
        name=name,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_number(header[108:116]),
        gid=_number(header[116:124]),
        size=_number(header[124:136]),
        mtime=_number(header[136:148]),
        link=_text(header[157:257]),
    )


def _kind(flag: bytes) -> Kind:
    try:
        return Kind("0" if flag in (b"\0", b"7") else flag.decode("latin-1"))
    except ValueError:
        raise InvalidInput(f"the archive has a member of the unknown type {flag!r}") from None


def _overlaid(member: Member, extended: dict[str, bytes]) -> Member:
    """Extended headers win over the block."""
    if any(key.startswith("GNU.sparse") for key in extended):
        raise InvalidInput("the archive has a sparse file, which is not supported")
    member.name = _decoded(extended.get("path")) or member.name
    member.link = _decoded(extended.get("linkpath")) or member.link
    member.size = _decimal(extended.get("size"), member.size)
    member.uid = _decimal(extended.get("uid"), member.uid)
    member.gid = _decimal(extended.get("gid"), member.gid)
    member.mtime = _decimal(extended.get("mtime"), member.mtime)
    member.xattrs = {key.removeprefix(_XATTR): value for key, value in extended.items() if key.startswith(_XATTR)}
    if member.kind is not Kind.FILE:
        member.size = 0
    return member


def _pax_records(data: bytes) -> dict[str, bytes]:
    """Records ``<length> <key>=<value>\\n``, where the length counts all of the record."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        match = re.compile(rb"(\d{1,7}) ").match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise InvalidInput("the archive has a malformed extended header")
        key, _, value = data[match.end() : end - 1].partition(b"=")
        records[key.decode(errors="surrogateescape")] = value
        position = end
    return records


def _number(raw: bytes) -> int:
    """An octal number, or one in base 256 where the first bit is set (GNU)."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ~(0x80 << 8 * (len(raw) - 1))
        if raw[0] & 0x40 or value >> 63:
            raise InvalidInput("the archive has a number that is out of range")
        return value
    digits = raw.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise InvalidInput("the archive has a malformed number")
    return int(digits or b"0", 8)


def _decimal(raw: bytes | None, otherwise: int) -> int:
    """A number of a pax record; fractions of seconds are cut off, times before 1970 are taken as 1970."""
    if not raw:
        return otherwise
    if not re.fullmatch(rb"-?\d{1,18}(\.\d*)?", raw):
        raise InvalidInput("the archive has a malformed number in an extended header")
    return max(int(raw.partition(b".")[0]), 0)


def _text(raw: bytes) -> str:
    return _decoded(raw.partition(b"\0")[0])


def _decoded(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="surrogateescape")
