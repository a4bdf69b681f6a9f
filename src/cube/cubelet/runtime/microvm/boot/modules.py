"""The modules that a guest needs, and all that they need, in an order in which they can be loaded."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from cube.model.errors import HostError

#: virtio_mmio before the devices behind it. The diagnosis of sockets is what ends copied connections.
WANTED = (
    *("virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "virtio_balloon", "virtio_rng"),
    *("erofs", "overlay", "ext4", "inet_diag", "tcp_diag"),
)
#: What a kernel may lack.
_OPTIONAL = frozenset({"virtio_balloon", "virtio_rng", "virtio_net"})


@dataclass(frozen=True, slots=True)
class Module:
    """A module, unpacked."""

    name: str
    content: bytes


def modules(directory: Path) -> list[Module]:
    """What to load, in order, from ``/lib/modules/<version>`` of the kernel; what is built in is left out.

    Raises ``HostError`` when the kernel lacks something.
    """
    tree = _Tree(directory)
    ordered: dict[str, None] = {}
    for name in WANTED:
        for path in tree.needed(name):
            ordered.setdefault(path)
    return [Module(_name(path), _unpacked(directory / path)) for path in ordered]


class _Tree:
    """The files of ``depmod``."""

    def __init__(self, directory: Path) -> None:
        try:
            dependencies = (directory / "modules.dep").read_text()
            built_in = (directory / "modules.builtin").read_text()
        except OSError as error:
            raise HostError(f"the modules of the kernel cannot be read: {error}") from error
        self._directory = directory
        self._built_in = {_name(path) for path in built_in.split()}
        self._needs = dict(_parsed(line) for line in dependencies.splitlines() if line)
        self._paths = {_name(path): path for path in self._needs}

    def needed(self, name: str) -> Iterator[str]:
        """Paths of a module and, before it, of those that it needs."""
        if (path := self._paths.get(name)) is not None:
            # depmod lists the nearest first.
            yield from reversed(self._needs[path])
            yield path
        elif name not in self._built_in and name not in _OPTIONAL:
            raise HostError(f"the kernel of {self._directory.name} has no module {name}; choose another one")


def _parsed(line: str) -> tuple[str, list[str]]:
    path, _, needs = line.partition(":")
    return path, needs.split()


def _name(path: str) -> str:
    """As modules call each other: without directory and endings, and with underscores."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content
