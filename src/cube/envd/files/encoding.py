"""Content codings of bodies: gzip, in steps of bounded size."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from cube.model.errors import InvalidInput

#: Bytes of output in one step, whatever the input expands to.
STEP = 1024 * 1024
_GZIP = 31
_FAST = 1


class Inflater:
    """Takes a gzip body apart; pure. Several members after one another count as one body (RFC 1952)."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """What ``data`` expands to, in steps of at most :data:`STEP` bytes; raises ``InvalidInput``."""
        rest: bytes | bytearray = data
        while rest:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            output = self._step(rest)
            rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._begun = True
            if output:
                yield output
        yield from self._held_back()

    def finish(self) -> None:
        """Say that the body is complete; raises ``InvalidInput`` when it is not."""
        if not self._begun or not self._member.eof:
            raise InvalidInput("the gzip body ends too early")

    def _held_back(self) -> Iterator[bytes]:
        # With all input consumed, a full step may have left output behind.
        while not self._member.eof and (output := self._step(b"")):
            yield output

    def _step(self, data: bytes | bytearray) -> bytes:
        try:
            return self._member.decompress(data, STEP)
        except zlib.error as error:
            raise InvalidInput("the body is not gzip, as its Content-Encoding says") from error


class Deflater:
    """Makes a gzip body; pure. Fast rather than small: it competes with the sandboxes for the processor."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_FAST, zlib.DEFLATED, _GZIP)

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the body, possibly none."""
        return self._stream.compress(data)

    def finish(self) -> bytes:
        """The last bytes of the body."""
        return self._stream.flush()


def wants_gzip(accept_encoding: str) -> bool:
    """Whether a response should be compressed: gzip is acceptable and identity is not just as welcome.

    HTTP libraries offer ``gzip, deflate, …`` by themselves, and on a fast link compressing costs more than it
    saves; so only a client that names gzip alone, as E2B's does when its user asks for it, gets it.
    """
    codings = [_coding(item) for item in accept_encoding.split(",") if item.strip()]
    wanted = [name for name, quality in codings if quality > 0]
    return wanted == ["gzip"]


def identity_refused(accept_encoding: str) -> bool:
    """Whether neither the plain body nor gzip is acceptable (RFC 9110, 12.5.3)."""
    codings = dict(_coding(item) for item in accept_encoding.split(",") if item.strip())
    identity = codings.get("identity", codings.get("*", 1.0))
    gzip = codings.get("gzip", codings.get("*", 0.0))
    return identity == 0 and gzip == 0


def _coding(item: str) -> tuple[str, float]:
    name, _, parameter = item.partition(";")
    quality = parameter.strip().removeprefix("q=")
    try:
        return name.strip().lower(), float(quality) if quality else 1.0
    except ValueError:
        return name.strip().lower(), 0.0
