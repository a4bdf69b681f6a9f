"""The kernel's command line of a guest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: The same for every guest. Its machine has no timer to measure its clock against but the host's, and no firmware to
#: ask for anything.
MACHINE = (
    *("tsc=reliable", "no_timer_check", "reboot=t", "panic=-1", "mitigations=off"),
    *("random.trust_cpu=on", "rcupdate.rcu_expedited=1", "cryptomgr.notests", "quiet"),
)


#: Emulated code is translated anew at every address that it is run from, which a program's libraries have another of
#: in every process: measured, a first `bash -l` took 280 ms, and 40 to 120 ms where they stay.
_EMULATED = ("norandmaps",)


def command_line(
    *,
    sudo_uids: Sequence[int] = (),
    pids: int = 0,
    open_files: int = 0,
    console: str = "hvc0",
    tsc_khz: int = 0,
    emulated: bool = False,
) -> str:
    """For a cold boot. ``sudo_uids`` may use ``sudo``; limits of 0 are none.

    ``tsc_khz`` is the rate of the processor's time stamp counter, for a guest that cannot find it out: under emulation
    that is a matter of luck. 0 takes it from this machine. An ``emulated`` guest has its programs at the same addresses
    in every process.
    """
    words = [f"console={console}", f"tsc_early_khz={tsc_khz or host_tsc_khz()}", *MACHINE]
    if emulated:
        words += _EMULATED
    if sudo_uids:
        words.append("cube.sudo=" + ",".join(map(str, sudo_uids)))
    if pids:
        words.append(f"cube.pids={pids}")
    if open_files:
        words.append(f"cube.files={open_files}")
    return " ".join(words)


def host_tsc_khz(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """The rate of this machine's time stamp counter, as well as the kernel tells; 1 GHz where it does not."""
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "cpu MHz":
            return int(float(value) * 1000)
    return 1_000_000
