from __future__ import annotations

from cube.cubelet.runtime.microvm.boot import command_line


def test_only_emulated_programs_stay_at_their_addresses() -> None:
    assert "norandmaps" in command_line(emulated=True, tsc_khz=1).split()
    assert "norandmaps" not in command_line(tsc_khz=1).split()


def test_limits_of_nothing_are_not_told() -> None:
    assert "cube." not in command_line(tsc_khz=1)
    words = command_line(sudo_uids=[0, 1000], pids=7, open_files=8, tsc_khz=9).split()
    assert {"cube.sudo=0,1000", "cube.pids=7", "cube.files=8", "tsc_early_khz=9"} <= set(words)
