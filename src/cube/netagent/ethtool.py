"""Features of an interface by name, as ``ethtool -k`` and ``-K`` show and switch them.

Layout and constants: <linux/ethtool.h>. The requests are ioctls of a socket, in the namespace of the calling thread.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterator
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_GFEATURES: Final = 0x3A
_SFEATURES: Final = 0x3B
_GSSET_INFO: Final = 0x37
_GSTRINGS: Final = 0x1B
_STRINGS_OF_FEATURES: Final = 4
_NAME_BYTES: Final = 32
_BLOCK_BITS: Final = 32
_IFREQ: Final = struct.Struct("=16sQ16x")
_COUNT: Final = struct.Struct("=IIQI")
_HEADER: Final = struct.Struct("=III")
_FEATURES: Final = struct.Struct("=II")
#: available, requested, active, never changed.
_STATE: Final = struct.Struct("=IIII")


def features(interface: str) -> dict[str, bool]:
    """Which features are on. ``OSError`` ENODEV when there is no such interface."""
    names = _names(interface)
    states = _states(interface, len(names))
    return {name: bool(states[bit // _BLOCK_BITS][2] >> bit % _BLOCK_BITS & 1) for bit, name in enumerate(names)}


def switch_on(interface: str, feature: str) -> bool:
    """Switch a feature on, where this kernel and this kind of interface have it; returns whether it is on then."""
    names = _names(interface)
    if feature not in names:
        return False
    bit = names.index(feature)
    blocks = [(0, 0)] * -(-len(names) // _BLOCK_BITS)
    blocks[bit // _BLOCK_BITS] = (1 << bit % _BLOCK_BITS,) * 2
    request = _FEATURES.pack(_SFEATURES, len(blocks)) + b"".join(_FEATURES.pack(*block) for block in blocks)
    _ioctl(interface, array.array("B", request))
    return features(interface)[feature]


def _names(interface: str) -> tuple[str, ...]:
    """The kernel's names of all features, by number."""
    asked = array.array("B", _COUNT.pack(_GSSET_INFO, 0, 1 << _STRINGS_OF_FEATURES, 0))
    _ioctl(interface, asked)
    count = _COUNT.unpack(asked.tobytes())[3]
    answer = array.array("B", _HEADER.pack(_GSTRINGS, _STRINGS_OF_FEATURES, count) + bytes(count * _NAME_BYTES))
    _ioctl(interface, answer)
    return tuple(_cut(answer.tobytes()[_HEADER.size :]))


def _cut(strings: bytes) -> Iterator[str]:
    for begin in range(0, len(strings), _NAME_BYTES):
        yield strings[begin : begin + _NAME_BYTES].partition(b"\0")[0].decode(errors="replace")


def _states(interface: str, count: int) -> list[tuple[int, ...]]:
    blocks = -(-count // _BLOCK_BITS)
    answer = array.array("B", _FEATURES.pack(_GFEATURES, blocks) + bytes(blocks * _STATE.size))
    _ioctl(interface, answer)
    return [_STATE.unpack_from(answer, _FEATURES.size + number * _STATE.size) for number in range(blocks)]


def _ioctl(interface: str, data: array.array[int]) -> None:
    address, _ = data.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, _SIOCETHTOOL, _IFREQ.pack(interface.encode(), address))
