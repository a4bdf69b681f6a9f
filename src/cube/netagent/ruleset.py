"""The table of one instance in nft's language: everything but the elements of its sets, which are the policies.

Nothing is added to the rules for a sandbox: they look the sandbox's address up. So the price of one more policy, and of
one more packet, does not depend on how many there are. That the address is the sandbox's own is asked first.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Final

from cube.model.egress import WEB_PORTS
from cube.model.network import CONNECTION_STEPS, PRIVATE
from cube.netagent.words import (
    DIVERTED,
    DIVERTED_FLOW,
    MARK_MASK,
    PASSED,
    RESOLVER,
    Target,
    Word,
)
from cube.settings import Settings

#: The map that says what may be done; a sandbox that is not in it is closed.
WORDS: Final = "words"
GENERATIONS: Final = "generations"
CURRENT: Final = "current"
STEPS: Final = "steps"
LEARNED: Final = "learned"
RATES_OUT: Final = "rates_out"
RATES_IN: Final = "rates_in"
#: Ports that a sandbox's rules name.
PORTS: Final = "ports"
#: Questions for names that a sandbox may ask in a second, and at once.
_QUESTIONS_PER_SECOND: Final = 200
_QUESTIONS_AT_ONCE: Final = 400

#: Where a packet goes on whose destination leads there.
_CHAINS: Final = {
    Target.PASS: "pass",
    Target.REFUSE: "refuse",
    Target.GATEWAY_ONLY: "gateway_only",
    Target.GATEWAY: "gateway",
}

# Why it is written this way:
# - `raw` stands before connection tracking. What is refused there, pings and questions for names cost no entry in the
#   machine's connection table, and what is refused later only one for as long as the packet lives: a sandbox cannot
#   fill it. What is let through is bounded by a number of connections.
# - `fib saddr . iif oif missing`: the way back to the source does not lead to this link, so the source is a lie.
# - Questions for names get another port instead of another destination: that needs no connection tracking either.
# - A connection that was opened under the policy in force needs no second judgement; one from before it does. This is
#   how a change cuts what is no longer allowed, and how a connection outlives the answer that allowed its address.
# - `gate` only judges: a packet without its mark is not forwarded, neither by `forward` nor by the machine's routing
#   (cube.netagent.routing), which closes all the same when this table is gone.
# - `tproxy` matches only while the gateway listens; what comes after it is the refusal.
# - In `forward`, answers get the mark that cube.netagent.forwarding asks for.
# - In `output`, resets and ICMP are let through because they are how the refusals travel.
_TABLE: Final = """
table inet {table} {{
  map words {{ type ipv4_addr : mark; }}
  map generations {{ type ipv4_addr : mark; }}
  set current {{ type ipv4_addr . mark; }}
  map steps {{ type ipv4_addr : mark; }}
  map learned {{ type ipv4_addr . ipv4_addr : mark; flags timeout; }}
  map rates_out {{ type ipv4_addr : limit; }}
  map rates_in {{ type ipv4_addr : limit; }}
  set ports {{ type ipv4_addr . inet_service; }}
  set questions {{ type ipv4_addr; flags dynamic, timeout; timeout 10s; size 65535; }}
{prefix_maps}
{step_sets}

  chain refuse {{
    meta l4proto tcp reject with tcp reset
    drop
  }}
  chain close_loudly {{
    meta l4proto tcp reject with tcp reset
    reject with icmp type admin-prohibited
  }}

{step_chains}
  chain count_connections {{
    meta mark set ip saddr map @steps
    meta mark vmap {{ {step_verdicts} }}
    goto refuse
  }}
  chain pass {{
    ct state new jump count_connections
    ct mark set ip saddr map @generations
    meta mark set {passed}
    accept
  }}
  chain divert {{
    meta l4proto tcp tproxy ip to 127.0.0.1:{gateway_port} meta mark set {diverted} accept
    goto refuse
  }}
  chain start_diverting {{
    ct state new jump count_connections
    ct mark set ip saddr map @generations
    ct mark set ct mark or {diverted_flow}
    goto divert
  }}
  chain public {{
    ip daddr {{ {private} }} goto refuse
    goto pass
  }}
  chain gateway_only {{
    tcp dport {{ {gateway_ports} }} goto start_diverting
    ip saddr . tcp dport @ports goto start_diverting
    goto refuse
  }}
  chain gateway {{
    tcp dport {{ {gateway_ports} }} goto start_diverting
    udp dport {{ {gateway_ports} }} goto refuse
    ip saddr . tcp dport @ports goto start_diverting
    ip saddr . udp dport @ports goto refuse
    goto pass
  }}
  chain gateway_public {{
    ip daddr {{ {private} }} goto refuse
    goto gateway
  }}
  chain by_target {{
    meta mark vmap {{ {targets} }}
    goto refuse
  }}
  chain by_word {{
    meta mark & {open} == 0 goto refuse
    meta mark & {everything} != 0 goto gateway_public
    goto public
  }}
  chain judge {{
    meta l4proto != {{ tcp, udp, icmp }} drop
    meta l4proto icmp icmp type != echo-request drop
    meta mark & {listed} == 0 goto by_word
    meta mark set ip saddr . ip daddr map @learned goto by_target
{prefix_rules}
    meta mark set ip saddr map @words goto by_word
    goto refuse
  }}
  chain known {{
    ct mark & {diverted_flow} != 0 goto divert
    meta mark set {passed} accept
  }}

  chain question {{
    meta mark set ip saddr map @words
    meta mark & {names} == 0 drop
    update @questions {{ ip saddr limit rate over {rate}/second burst {burst} packets }} drop
    meta mark set {resolver}
    notrack
{to_resolver}
  }}
  chain to_host {{
    icmp type echo-request notrack accept
    fib daddr . iif type local meta l4proto {{ tcp, udp }} th dport 53 goto question
    accept
  }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "{links}*" accept
    meta nfproto != ipv4 drop
    fib saddr . iif oif missing drop
    meta mark set 0
    limit name ip saddr map @rates_out drop
    fib daddr type local goto to_host
    ip daddr {network} goto close_loudly
    fib daddr type != unicast drop
  }}
  chain gate {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != "{links}*" accept
    fib daddr type local accept
    ct state invalid drop
    ct state established,related ip saddr . ct mark @current goto known
    meta mark set ip saddr map @words goto judge
    goto refuse
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
{only_for_links}
    iifname != "{links}*" accept
    meta mark & {mask} == {diverted} accept
    meta mark & {mask} == {resolver} accept
    ct state established accept
    ct state related meta l4proto icmp accept
    icmp type echo-request fib daddr . iif type local accept
    goto close_loudly
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "{links}*" oifname != "{links}*" accept
    meta nfproto != ipv4 drop
    iifname "{links}*" oifname "{links}*" goto close_loudly
    limit name ip daddr map @rates_in drop
    oifname "{links}*" ct state established,related meta mark set {passed} accept
    iifname "{links}*" meta mark & {mask} == {passed} goto leave
    goto close_loudly
  }}
  chain leave {{
    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    accept
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname != "{links}*" accept
    meta nfproto != ipv4 drop
    ct state established accept
    ct state untracked meta l4proto {{ tcp, udp }} th sport 53 accept
    meta l4proto icmp accept
    tcp flags & rst == rst accept
    meta l4proto tcp meta skuid {proxy_uid} accept
    goto close_loudly
  }}
  chain answers {{
    type filter hook output priority raw; policy accept;
    oifname != "{links}*" accept
{from_resolver}
  }}
  chain address {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network} oifname != "{links}*" masquerade
  }}
}}
"""


def table(settings: Settings, dns_port: int | None) -> str:
    """The table, without a word about a former one. ``dns_port`` is the resolver's; without one names are closed."""
    return _TABLE.format(
        table=settings.instance,
        links=f"{settings.instance}-",
        network=settings.network_cidr,
        proxy_uid=settings.proxy_uid,
        gateway_port=settings.egress_port,
        gateway_ports=", ".join(map(str, WEB_PORTS)),
        rate=_QUESTIONS_PER_SECOND,
        burst=_QUESTIONS_AT_ONCE,
        private=", ".join(map(str, PRIVATE)),
        passed=hex(PASSED),
        diverted=hex(DIVERTED),
        resolver=hex(RESOLVER),
        mask=hex(MARK_MASK),
        diverted_flow=hex(DIVERTED_FLOW),
        open=hex(Word.OPEN),
        listed=hex(Word.LISTED),
        names=hex(Word.NAMES),
        everything=hex(Word.EVERYTHING_DIVERTED),
        targets=", ".join(f"{target.value} : goto {_CHAINS[target]}" for target in Target),
        **_resolver(f"{settings.instance}-", dns_port),
        **_prefixes(),
        **_steps(),
    )


def replacement(settings: Settings, dns_port: int | None) -> str:
    """The commands that put the table in the place of a former one, whatever is in that."""
    return removal(settings) + table(settings, dns_port)


def update(settings: Settings, dns_port: int | None) -> str:
    """The commands that renew the rules of a table of the same form, and keep the policies that are in force."""
    return f"add table inet {settings.instance}\nflush table inet {settings.instance}\n" + table(settings, dns_port)


def removal(settings: Settings) -> str:
    """The commands that take the table away; `add` first makes it no error when there is none."""
    return f"add table inet {settings.instance}\ndelete table inet {settings.instance}\n"


def prefix_map(length: int) -> str:
    """Name of the map that holds the networks whose prefix has that length."""
    return f"prefix{length}"


def _resolver(links: str, port: int | None) -> dict[str, str]:
    if port is None:
        return {"to_resolver": "    drop", "only_for_links": "", "from_resolver": ""}
    only = f'    iifname != "{links}*" meta l4proto {{ tcp, udp }} th dport {port} drop'
    protocols = ("udp", "tcp")
    return {
        "to_resolver": "\n".join(f"    {name} dport set {port} accept" for name in protocols),
        "only_for_links": only,
        "from_resolver": "\n".join(f"    {name} sport {port} notrack {name} sport set 53" for name in protocols),
    }


def _prefixes() -> dict[str, str]:
    lengths = range(32, -1, -1)
    maps = (f"  map {prefix_map(length)} {{ type ipv4_addr . ipv4_addr : mark; }}" for length in lengths)
    rules = (
        f"    meta mark set ip saddr . (ip daddr & {IPv4Network((0, length)).netmask}) map @{prefix_map(length)} "
        "goto by_target"
        for length in lengths
    )
    return {"prefix_maps": "\n".join(maps), "prefix_rules": "\n".join(rules)}


def _steps() -> dict[str, str]:
    sets = (f"  set step{step} {{ type ipv4_addr; flags dynamic; size 65535; }}" for step in CONNECTION_STEPS)
    chains = (
        f"  chain at_most_{step} {{ add @step{step} {{ ip saddr ct count over {step} }} goto refuse; }}"
        for step in CONNECTION_STEPS
    )
    verdicts = (f"{step} : goto at_most_{step}" for step in CONNECTION_STEPS)
    return {
        "step_sets": "\n".join(sets),
        "step_chains": "\n".join(chains),
        "step_verdicts": ", ".join(verdicts),
    }
