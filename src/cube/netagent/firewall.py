"""The rules between sandboxes, the host and the rest of the world: one nftables table per instance.

The rules match the names of the links, so a new sandbox is covered before it exists and nothing is added for it. At
this stage every way is closed but two: the inbound proxy may open TCP connections to sandboxes, and a sandbox may ping
its gateway. What is refused is refused at once, so that programs in a sandbox fail instead of hanging. No rule of
another table is touched; a verdict of ours to drop stands whatever they say.
"""

from __future__ import annotations

import asyncio

from cube.netagent import nftables
from cube.settings import Settings

# Why it is written this way:
# - `raw` stands before connection tracking. What is refused there, and pings, which are not tracked, cost no entry in
#   the machine's connection table: a sandbox cannot fill it.
# - `fib saddr . iif oif missing`: the way back to the source does not lead to this link, so the source is a lie.
# - In `output`, resets and ICMP are let through because they are how the refusals travel.
# - `forward` says again what `raw` has said, and closes the way for traffic that comes from outside.
_TABLE = """
table inet {table} {{
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "{links}*" accept
    meta nfproto != ipv4 drop
    fib saddr . iif oif missing drop
    fib daddr type != local meta l4proto tcp reject with tcp reset
    fib daddr type != local reject with icmp type admin-prohibited
    icmp type echo-request notrack
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{links}*" accept
    ct state established accept
    ct state related meta l4proto icmp accept
    icmp type echo-request fib daddr . iif type local accept
    meta l4proto tcp reject with tcp reset
    reject with icmp type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "{links}*" oifname != "{links}*" accept
    meta nfproto != ipv4 drop
    meta l4proto tcp reject with tcp reset
    reject with icmp type admin-prohibited
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname != "{links}*" accept
    meta nfproto != ipv4 drop
    ct state established accept
    meta l4proto icmp accept
    tcp flags & rst == rst accept
    meta l4proto tcp meta skuid {proxy_uid} accept
    meta l4proto tcp reject with tcp reset
    reject with icmp type admin-prohibited
  }}
}}
"""
# `add` before `delete` makes deleting what may not be there no error; all of it is one transaction.
_REPLACE = "add table inet {table}\ndelete table inet {table}\n"


class Firewall:
    """The table of one instance."""

    def __init__(self, settings: Settings) -> None:
        self._table = settings.instance
        self._rules = _TABLE.format(
            table=settings.instance,
            links=f"{settings.instance}-",
            proxy_uid=settings.proxy_uid,
        )

    @property
    def rules(self) -> str:
        """The commands that ``install`` carries out, in nft's language."""
        return _REPLACE.format(table=self._table) + self._rules

    async def install(self) -> None:
        """Put the table in force, replacing an earlier one without a moment in between. ``HostError`` when refused."""
        await asyncio.to_thread(nftables.run, self.rules)

    async def remove(self) -> None:
        """Take the table away; succeeds when there is none."""
        await asyncio.to_thread(nftables.run, _REPLACE.format(table=self._table))
