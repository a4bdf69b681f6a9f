"""A look at running machines from another process than the service: for people, through QEMU's second monitor."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from cube.cubelet.runtime.microvm.monitor import Monitor
from cube.cubelet.runtime.microvm.record import Record, Records
from cube.cubelet.runtime.microvm.vmm import Doors
from cube.model.errors import HostError, SandboxNotFound
from cube.netagent.addresses import AddressPlan
from cube.settings import Settings

#: Seconds that QEMU gets for each question.
_PATIENCE: Final = 5.0
_CONSOLE_BYTES: Final = 1 << 16
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def machines(settings: Settings) -> dict[str, Record]:
    """The machines that run, by sandbox."""
    return Records(settings.run_dir / "vm").all()


def machine(settings: Settings, sandbox_id: str) -> Record:
    """The machine of one sandbox; raises ``SandboxNotFound`` when none runs."""
    found = Records(settings.run_dir / "vm").read(sandbox_id)
    if found is None or not found.alive:
        raise SandboxNotFound(sandbox_id)
    return found


def traffic(settings: Settings, record: Record) -> dict[str, int]:
    """Bytes that the guest has received and sent, as its link on the host counts; empty without one."""
    interface = AddressPlan(settings.instance, IPv4Network(settings.network_cidr)).interface(record.seat)
    counters = Path("/sys/class/net", interface, "statistics")
    try:
        # What the host's end has sent, the guest has received.
        found = [int((counters / name).read_text()) for name in ("tx_bytes", "rx_bytes")]
    except OSError:
        return {}
    return {"received_bytes": found[0], "sent_bytes": found[1]}


def usage(record: Record) -> dict[str, float]:
    """What QEMU uses as the kernel counts: ``cpu_seconds``, ``memory_bytes`` (PSS). Zeros when it has just ended."""
    process = Path(f"/proc/{record.pid}")
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return {"cpu_seconds": 0.0, "memory_bytes": 0}
    pss = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return {"cpu_seconds": (int(fields[11]) + int(fields[12])) / _TICKS, "memory_bytes": pss}


async def details(settings: Settings, record: Record) -> Mapping[str, Any]:
    """What QEMU says of a machine: ``status``, ``cpus``, ``balloon_bytes`` (what the guest has), ``disks`` with the
    bytes read and written of each. Raises ``HostError`` when it does not answer."""
    async with _asked(settings, record) as monitor:
        status = await monitor.execute("query-status", seconds=_PATIENCE)
        cpus = await monitor.execute("query-cpus-fast", seconds=_PATIENCE)
        balloon = await monitor.execute("query-balloon", seconds=_PATIENCE)
        disks = await monitor.execute("query-blockstats", {"query-nodes": True}, seconds=_PATIENCE)
        return {
            "status": status["status"],
            "cpus": len(cpus),
            "balloon_bytes": balloon["actual"],
            "disks": {one["node-name"]: _moved(one["stats"]) for one in disks if one.get("node-name") in _DISKS},
        }


#: Names of the disks of a machine.
_DISKS: Final = ("image", "layer")


def _moved(stats: Mapping[str, int]) -> dict[str, int]:
    return {"read_bytes": stats["rd_bytes"], "written_bytes": stats["wr_bytes"]}


async def console(settings: Settings, record: Record) -> str:
    """The last that the guest's kernel and its boot have said and nobody has read; reading takes it away. The guest can
    say what it likes. Raises ``HostError``."""
    async with _asked(settings, record) as monitor:
        arguments = {"device": "console", "size": _CONSOLE_BYTES, "format": "utf8"}
        return str(await monitor.execute("ringbuf-read", arguments, seconds=_PATIENCE))


@asynccontextmanager
async def _asked(settings: Settings, record: Record) -> AsyncIterator[Monitor]:
    doors = Doors(settings.run_dir / "vm", f"seat{record.seat}")
    try:
        monitor = Monitor(doors.connect("second"))
    except OSError as error:
        raise HostError(f"the machine's monitor does not answer: {error.strerror}") from error
    try:
        await monitor.ready(_PATIENCE)
        yield monitor
    finally:
        monitor.close()
