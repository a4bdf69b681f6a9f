"""Links of microVMs: a TAP interface on the host, whose descriptor the virtual machine's process is given.

The addresses, and what the rules match, are those of a container's link. ARP is on, for the guest may not know the
gateway's MAC beforehand; it can set :data:`cube.netagent.factory.GATEWAY_MAC` and must have ``SANDBOX_MAC`` itself.
Constants: <linux/if_tun.h>. All of it blocks and belongs on a thread of ``namespaces.namespace_thread``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from cube.model.errors import HostError
from cube.netagent import ethtool, rtnetlink
from cube.netagent.factory import GATEWAY_MAC, Factory
from cube.netagent.rtnetlink import LinkInfo

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
#: Each packet begins with a virtio header, through which checksums and segmentation are left to whoever is last.
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO4: Final = 0x02
_TUN_F_TSO6: Final = 0x04
_TUN_F_TSO_ECN: Final = 0x08
_IFREQ: Final = struct.Struct("=16sH22x")

#: What the host may leave to the guest: the sum of a packet, and the cutting of a large one.
OFFLOADS: Final = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN
#: Where a kernel has it: redirected packets are then not cut ahead of the redirection.
_MANGLEID: Final = "tx-tcp-mangleid-segmentation"


@dataclass(frozen=True, slots=True)
class TapLink:
    """One wire between the host and a virtual machine."""

    index: int
    #: Name of the interface, and its number.
    interface: str
    interface_index: int
    gateway: IPv4Address
    #: Address of the sandbox.
    address: IPv4Address
    #: For the virtual machine's process to inherit (``IFF_TAP | IFF_NO_PI | IFF_VNET_HDR``); it belongs to the pool and
    #: is closed when the link is released. ``None`` for a link that was taken over: its process has the only one.
    descriptor: int | None

    def close(self) -> None:
        """Let go of the descriptor; the interface goes when nobody has one."""
        if self.descriptor is not None:
            os.close(self.descriptor)


def open_tap(interface: str, *, new: bool) -> int:
    """Make a TAP interface, or open one that nobody has open; the caller closes the descriptor.

    ``FileExistsError`` when a new one's name is taken; ``OSError`` EBUSY when somebody has it open already, EINVAL when
    it is no TAP interface.
    """
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_TUN_EXCL if new else 0)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(interface.encode(), flags))
    except OSError as error:
        os.close(descriptor)
        if new and error.errno in (errno.EBUSY, errno.EINVAL):
            raise FileExistsError(errno.EEXIST, f"{interface} is there already") from error
        raise
    return descriptor


def keep(descriptor: int, *, kept: bool = True) -> None:
    """Have an interface stay when nobody has it open any more, or not."""
    fcntl.ioctl(descriptor, _TUNSETPERSIST, int(kept))


class TapFactory(Factory[TapLink]):
    """Makes, judges and removes the links of microVMs."""

    kind = "tun"

    def make(self, index: int) -> TapLink:
        """Make the link of an index. ``FileExistsError`` when its interface is (still) there; nothing is left then."""
        name = self.plan.interface(index)
        descriptor = open_tap(name, new=True)
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, OFFLOADS)
            found = self._host.link(name)
            self._host.request([rtnetlink.set_mac(found.index, GATEWAY_MAC)])
            self._close_host_end(name)
            ethtool.switch_on(name, _MANGLEID)
            self._address_host_end(index, arp=True)
        except BaseException:
            os.close(descriptor)
            raise
        return self._describe(index, found, descriptor)

    def adopt(self, index: int, pid: int | None) -> TapLink:
        """Take over a link whose descriptor a virtual machine's process has had since before this service, or one that
        stands by itself (:func:`keep`).

        ``HostError`` when the process or the interface is gone or the two do not belong together.
        """
        name = self.plan.interface(index)
        try:
            found = self._host.link(name)
        except OSError as error:
            raise HostError(f"the link {name} is gone: {error.strerror}") from error
        if pid is not None and not _has_open(pid, name):
            raise HostError(f"process {pid} does not have the link {name} open")
        return self._describe(index, found, None)

    def is_pristine(self, link: TapLink) -> bool:
        """Whether no packet went through it; one that a virtual machine was started with is never used again."""
        if link.descriptor is None:
            return False
        found = self._found(link.interface)
        return found is None or not found.traffic

    def _describe(self, index: int, found: LinkInfo, descriptor: int | None) -> TapLink:
        gateway, sandbox = self.plan.gateway(index).ip, self.plan.sandbox(index).ip
        return TapLink(index, self.plan.interface(index), found.index, gateway, sandbox, descriptor)


def _has_open(pid: int, interface: str) -> bool:
    """Whether one of a process's descriptors is this TAP interface, as /proc tells."""
    wanted = f"iff:\t{interface}".encode()
    try:
        return any(wanted in entry.read_bytes().splitlines() for entry in Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:  # it is ending
        return False
