"""How mmdebstrap is called: the machine's settings reach it, secrets do not reach the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.master.templates import apt, debian
from cube.master.templates.definition import DebianSource
from cube.master.templates.progress import Meter, Phase, Progress

SOURCE = DebianSource(packages=("bash", "git"))
MIRROR = apt.Repository("https://me:hunter2@mirror.example/debian", "bookworm", ("main",))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(apt, "options", lambda: ['Acquire::http::Proxy "http://me:hunter2@proxy.example";'])
    return debian.write_settings(tmp_path, [MIRROR])


def test_settings_are_private(settings: tuple[Path, Path]) -> None:
    sources, options = settings
    assert "hunter2" in sources.read_text()
    assert "proxy.example" in options.read_text()
    assert {path.stat().st_mode & 0o777 for path in settings} == {0o600}


def test_nothing_secret_is_on_the_command_line(settings: tuple[Path, Path], tmp_path: Path) -> None:
    command = debian._command(SOURCE, "bookworm", tmp_path / "tree", settings)
    assert not any("hunter2" in argument for argument in command)
    assert "--include=bash,git" in command
    assert command[-3:] == ["bookworm", str(tmp_path / "tree"), str(settings[0])]


def test_without_a_configured_archive_mmdebstrap_chooses(
    tmp_path: Path, settings: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings[0].write_text("\n")
    assert debian._command(SOURCE, "trixie", tmp_path / "tree", settings)[-2:] == ["trixie", str(tmp_path / "tree")]


def test_messages_become_progress() -> None:
    events: list[Progress] = []
    meter = Meter(events.append)
    for line in ("I: running apt-get update...", "Get:1 x", "I: installing remaining packages inside the chroot..."):
        debian._milestone(line, meter)
    assert [event.message for event in events] == ["reading package lists", "installing packages"]
    assert all(event.phase is Phase.SOURCE for event in events)
