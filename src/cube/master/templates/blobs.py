"""Where the parts of a local OCI image lie: a layout directory, or a tar archive of one, read in place."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from cube.master.templates.tar import Kind, Readable, TarReader
from cube.master.templates.tree import Tree
from cube.model.errors import InvalidInput

#: Largest index, manifest or configuration that is read.
MAX_JSON = 4 << 20
_MAX_ENTRIES = 100_000


class Blobs(Protocol):
    """The files of an image by their names in it."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> Readable:
        """The content of a file; raises ``InvalidInput`` when there is none."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_blobs(path: Path) -> Blobs:
    """The image at ``path``; raises ``InvalidInput`` when there is none."""
    try:
        return LayoutDirectory(path) if path.is_dir() else Archive(path)
    except OSError as error:
        raise InvalidInput(f"the image {path} could not be read: {error.strerror}", field="path") from error


def read_small(blobs: Blobs, name: str) -> bytes:
    """All of a small file; raises ``InvalidInput`` when it is not small."""
    data = blobs.open(name).read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise InvalidInput(f"{name} of the image is larger than {MAX_JSON} bytes")
    return data


class LayoutDirectory:
    """An OCI image layout; links in it do not lead out of it."""

    def __init__(self, path: Path) -> None:
        self._tree = Tree(path)
        self._opened: list[BinaryIO] = []

    def has(self, name: str) -> bool:
        return self._tree.stat(name) is not None

    def open(self, name: str) -> Readable:
        try:
            file = self._tree.open(name)
        except OSError as error:
            raise InvalidInput(f"the image lacks {name}: {error.strerror}") from error
        self._opened.append(file)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._opened:
            file.close()
        self._tree.__exit__(kind, error, trace)


class Archive:
    """A tar archive of a layout, or of ``docker save``; its files are read where they lie in it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self._index = _index(self._file)
        except BaseException:
            self._file.close()
            raise

    def has(self, name: str) -> bool:
        return name in self._index

    def open(self, name: str) -> Readable:
        try:
            start, size = self._index[name]
        except KeyError:
            raise InvalidInput(f"the image lacks {name}") from None
        return _Region(self._file, start, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class _Region:
    """Part of a file as a stream; several may be read in turns."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._position = start
        self._end = start + size

    def read(self, size: int, /) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(max(min(size, self._end - self._position), 0))
        self._position += len(data)
        return data


def _index(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Position and size of every file of the archive. Old ``docker save`` links layers that occur twice."""
    if file.read(2) == b"\x1f\x8b":
        raise InvalidInput("the image archive is compressed: unpack it with gunzip first", field="path")
    file.seek(0)
    files: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for count, member in enumerate(TarReader(file)):
        if count >= _MAX_ENTRIES:
            raise InvalidInput("the image archive has too many entries")
        if member.kind is Kind.FILE:
            files[_plain(member.name)] = (file.tell(), member.size)
        elif member.kind in (Kind.SYMLINK, Kind.HARD_LINK):
            links[_plain(member.name)] = _target(member.kind, member.name, member.link)
    return files | {name: files[target] for name, target in links.items() if target in files}


def _target(kind: Kind, name: str, link: str) -> str:
    return _plain(f"{name.rpartition('/')[0]}/{link}" if kind is Kind.SYMLINK else link)


def _plain(name: str) -> str:
    """A name without ``.`` and ``..``: only a key of the index, never a path on the host."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
