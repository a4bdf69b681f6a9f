"""``POST /files``: one raw file, or any number of them as multipart/form-data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from cube.envd.asgi import Receive, Scope, header
from cube.envd.bulk import align, pieces
from cube.envd.files.blocking import submit
from cube.envd.files.encoding import Inflater
from cube.envd.files.metadata import metadata_headers
from cube.envd.files.multipart import Event, MultipartParser, PartBegin, PartData, PartEnd
from cube.envd.files.parameters import header_parameters
from cube.envd.files.writing import FileWriter, written
from cube.envd.guest import Guest
from cube.model.errors import InvalidInput

_FIELD = "file"


async def receive_files(scope: Scope, receive: Receive, guest: Guest, path: str, user: str) -> list[dict[str, object]]:
    """Write what the request carries; returns one record per file.

    ``path`` is the target of a single file, empty when the file names of the parts are the targets.
    Raises ``InvalidInput``, ``StorageFull``, ``ClientDisconnected``, and what the guest raises.
    """
    metadata = metadata_headers(scope)
    kind, parameters = header_parameters(header(scope, b"content-type"))
    async with aclosing(pieces(scope, receive)) as body:
        content = _decoded(scope, body)
        if kind == "multipart/form-data":
            parser = MultipartParser(parameters.get("boundary", ""))
            return await _MultipartUpload(guest, path, user, metadata).run(_events(scope, parser, content))
        if kind == "application/octet-stream":
            return [await _write_raw(content, guest, path, user, metadata)]
    raise InvalidInput("the Content-Type must be multipart/form-data or application/octet-stream")


async def _write_raw(
    content: AsyncIterator[bytes | bytearray], guest: Guest, path: str, user: str, metadata: dict[str, str]
) -> dict[str, object]:
    if not path:
        raise InvalidInput("the query parameter 'path' is missing", field="path")
    async with await FileWriter.open(guest, path, user) as writer:
        async for chunk in content:
            await writer.write(chunk)
        await writer.finish(metadata)
    return written(writer.entry, metadata)


async def _events(
    scope: Scope, parser: MultipartParser, content: AsyncIterator[bytes | bytearray]
) -> AsyncIterator[Event]:
    async for chunk in content:
        for event in parser.feed(chunk):
            if isinstance(event, PartBegin):
                # Where the body is compressed, this is some other place of it, which does no harm.
                align(scope, parser.position)
            yield event
    parser.finish()


class _MultipartUpload:
    """Writes the parts named ``file`` one after the other; other parts are skipped."""

    def __init__(self, guest: Guest, path: str, user: str, metadata: dict[str, str]) -> None:
        self._guest = guest
        self._path = path
        self._user = user
        self._metadata = metadata
        self._targets: set[str] = set()
        self._written: list[dict[str, object]] = []

    async def run(self, events: AsyncIterator[Event]) -> list[dict[str, object]]:
        """Carry it out; returns one record per file."""
        async for event in events:
            if isinstance(event, PartBegin) and event.name == _FIELD:
                await self._write_part(self._target(event), events)
        if not self._written:
            raise InvalidInput(f"the body has no part named {_FIELD!r}")
        return self._written

    def _target(self, part: PartBegin) -> str:
        target = self._path or part.filename
        if not target:
            raise InvalidInput("neither the query parameter 'path' nor the file name of a part says where to write")
        self._claim(target)
        return target

    def _claim(self, target: str) -> None:
        if target in self._targets:
            raise InvalidInput(f"the path '{target}' is written twice in one request; send each file once")
        self._targets.add(target)

    async def _write_part(self, target: str, events: AsyncIterator[Event]) -> None:
        async with await FileWriter.open(self._guest, target, self._user) as writer:
            if writer.entry.path != target:
                self._claim(writer.entry.path)
            async for event in events:
                if isinstance(event, PartEnd):
                    break
                if isinstance(event, PartData):
                    await writer.write(event.data)
            await writer.finish(self._metadata)
        self._written.append(written(writer.entry, self._metadata))


async def _decoded(scope: Scope, chunks: AsyncIterator[bytes | bytearray]) -> AsyncIterator[bytes | bytearray]:
    coding = header(scope, b"content-encoding").strip().lower()
    if coding in ("", "identity"):
        async for chunk in chunks:
            yield chunk
    elif coding == "gzip":
        async for chunk in _inflated(chunks):
            yield chunk
    else:
        raise InvalidInput(f"the Content-Encoding {coding[:50]!r} is not known; send gzip or none")


async def _inflated(chunks: AsyncIterator[bytes | bytearray]) -> AsyncIterator[bytes | bytearray]:
    """Expand in a thread, one bounded step at a time, so that a bomb neither fills memory nor stops the event loop."""
    inflater = Inflater()
    async for chunk in chunks:
        steps = inflater.feed(chunk)
        while output := await submit(next, steps, b""):
            yield output
    inflater.finish()
