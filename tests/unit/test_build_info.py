"""Which build this is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cube import __version__, build_info
from cube.build_info import Build
from cube.cubelet.components import components
from cube.egress import version_file
from cube.settings import Settings


@pytest.fixture(autouse=True)
def _asked_again() -> None:
    build_info.build.cache_clear()


def test_a_checkout_asks_git() -> None:
    found = build_info.build()

    assert found.version == __version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", found.commit)


def test_a_package_knows_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "build.json"
    written.write_text('{"commit": "abc1234", "build_time": "2026-01-01T00:00:00+00:00"}')
    monkeypatch.setattr(build_info, "_FILE", written)

    assert build_info.build() == Build(__version__, "abc1234", "2026-01-01T00:00:00+00:00")


def test_without_either_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_info, "_FILE", tmp_path / "build.json")

    assert build_info.build() == Build(__version__, "unknown", "unknown")


def test_e14_the_outbound_proxy_is_listed_with_the_version_in_its_file(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    before = {one.component for one in components(settings)}
    version_file.write(settings.egress_version_file)
    after = {one.component: one for one in components(settings)}

    assert "cube-egress" not in before
    assert after["cube-egress"].source == "file"
    assert after["cube-egress"].build == build_info.build()
    assert after["envoy"].build.version


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json"])
def test_a_broken_file_is_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "version"
    path.write_text(text)

    assert version_file.read(path) is None
