"""The machine passes packets on between sandboxes and the world, and becomes no router for anybody else by that.

Forwarding is switched on for each interface that somebody has put routes on, not for the machine: the global switch
stays as it is. What comes in over an interface that we switched goes no further unless the table of an instance has
marked it as an answer to a sandbox. The table that says so is shared by all instances of a machine; the last one to go
switches everything back. Whoever turns the global switch on meanwhile, as container engines do, has taken over the
question what is forwarded.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cube.netagent import namespaces, nftables
from cube.netagent.nfelements import ElementSocket
from cube.netagent.rtnetlink import RouteSocket, routed_interfaces
from cube.netagent.words import MARK_MASK, PASSED

_log = logging.getLogger(__name__)

TABLE: Final = "cube_router"
_OPENED: Final = "opened"
_MEMBERS: Final = "members"
_SKELETON: Final = f"""
add table inet {TABLE}
add set inet {TABLE} {_OPENED} {{ type ifname; }}
add set inet {TABLE} {_MEMBERS} {{ type ifname; }}
add chain inet {TABLE} forward {{ type filter hook forward priority filter + 10; policy accept; }}
flush chain inet {TABLE} forward
add rule inet {TABLE} forward iifname @{_OPENED} meta mark & {MARK_MASK:#x} != {PASSED:#x} drop
"""
_GLOBAL: Final = "/proc/sys/net/ipv4/ip_forward"
_CONF: Final = Path("/proc/sys/net/ipv4/conf")


class Forwarding:
    """One instance's part in it. Everything blocks; use in the machine's own namespace."""

    def __init__(self, links: str) -> None:
        """``links`` is how the names of the instance's interfaces begin."""
        self._member = links

    def up(self) -> None:
        """Switch forwarding on where routes lead; again, to follow routes that have changed since."""
        with _alone():
            nftables.run(_SKELETON + _element("add", _MEMBERS, self._member))
            if _globally_on():
                nftables.run(f"flush set inet {TABLE} {_OPENED}\n")
                return
            for interface in self._uplinks():
                if _read(interface) == "0":
                    nftables.run(_element("add", _OPENED, interface))
                    namespaces.write_sysctl(f"net/ipv4/conf/{interface}/forwarding", "1")
                    _log.info("packets of sandboxes are forwarded over %s", interface)

    def down(self) -> None:
        """Have no part in it any more; succeeds when there was none."""
        with _alone():
            nftables.run(
                _SKELETON + _element("add", _MEMBERS, self._member) + _element("delete", _MEMBERS, self._member)
            )
            if not _names(_MEMBERS):
                self._switch_back(_names(_OPENED))
                nftables.run(f"delete table inet {TABLE}\n")

    def _switch_back(self, opened: list[str]) -> None:
        if _globally_on():
            return
        for interface in opened:
            with contextlib.suppress(FileNotFoundError):  # it is gone
                namespaces.write_sysctl(f"net/ipv4/conf/{interface}/forwarding", "0")

    def _uplinks(self) -> list[str]:
        """Where the machine's ways lead out."""
        with RouteSocket() as netlink:
            routed = routed_interfaces(netlink)
            names = [link.name for link in netlink.links() if link.index in routed]
        return [name for name in names if name != "lo" and not name.startswith(tuple(_names(_MEMBERS)))]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Instances that start and stop at the same time do so one after the other. The lock goes with its holder."""
    lock = os.open(_GLOBAL, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _names(name: str) -> list[str]:
    """The interface names in a set."""
    with ElementSocket() as netlink:
        return [element.key.rstrip(b"\0").decode() for element in netlink.elements(TABLE, name)]


def _element(verb: str, name: str, value: str) -> str:
    return f'{verb} element inet {TABLE} {name} {{ "{value}" }}\n'


def _globally_on() -> bool:
    return Path(_GLOBAL).read_text().strip() == "1"


def _read(interface: str) -> str:
    try:
        return (_CONF / interface / "forwarding").read_text().strip()
    except FileNotFoundError:
        return ""
