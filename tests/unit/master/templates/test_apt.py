"""Which of a machine's package sources a template is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.master.templates import apt

DEBIAN = """\
# The archive
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
  bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
THIRD_PARTY = """\
Types: deb
URIs: https://vendor.example/apt
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def found(etc: Path) -> list[str]:
    return [entry.line() for entry in apt.main_repositories("bookworm", etc)]


def test_main_suites_alone(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEBIAN)
    assert found(etc) == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


def test_third_parties_that_use_the_same_names_are_left_out(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEBIAN)
    (etc / "sources.list.d/vendor.sources").write_text(THIRD_PARTY)
    (etc / "sources.list.d/other.list").write_text("deb [signed-by=/x.gpg] https://other.example bookworm main\n")
    assert all("mirror.example" in line for line in found(etc))


def test_one_line_style(etc: Path) -> None:
    (etc / "sources.list").write_text(
        "# deb http://off.example bookworm main\n"
        "deb-src http://source.example bookworm main\n"
        "deb [arch=amd64 trusted=no] http://mirror.example/debian bookworm main contrib # comment\n"
        "deb http://mirror.example/debian trixie main\n"
        "deb http://mirror.example/debian bookworm contrib\n"
    )
    assert found(etc) == ["deb http://mirror.example/debian bookworm main"]


def test_a_vendor_alone_is_no_debian(etc: Path) -> None:
    (etc / "sources.list.d/vendor.sources").write_text(THIRD_PARTY)
    assert found(etc) == []


@pytest.mark.parametrize("value", ["no", "false"])
def test_what_is_switched_off_stays_off(etc: Path, value: str) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEBIAN.replace("Types:", f"Enabled: {value}\nTypes:"))
    assert found(etc) == []


def test_nothing_configured(etc: Path) -> None:
    assert found(etc) == []


def test_a_password_does_not_get_into_the_template() -> None:
    entry = apt.Repository("https://me:secret@mirror.example:8080/debian", "bookworm", ("main",))
    assert entry.public_line() == "deb https://mirror.example:8080/debian bookworm main"
    assert "secret" in entry.line()


@pytest.mark.parametrize(
    ("content", "suite"),
    [
        ('ID=debian\nVERSION_CODENAME="bookworm"\n', "bookworm"),
        ("ID=debian\nVERSION_CODENAME=trixie\n", "trixie"),
        ("ID=debian\nVERSION_CODENAME=bullseye\n", "trixie"),
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", "trixie"),
    ],
)
def test_the_release_of_this_machine(tmp_path: Path, content: str, suite: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(content)
    assert apt.host_suite(path) == suite
