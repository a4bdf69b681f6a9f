"""What /etc says of a sandbox, written into a layer that is hostile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cube.cubelet.runtime.container import identity

CONTENT = identity.files(address="10.0.0.1", gateway="10.0.0.0", hostname="i1", fresh=True)
OWNER = os.getuid()


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/hosts").write_text("host")
    made = tmp_path / "upper"
    made.mkdir()
    return made


def test_an_empty_layer_gets_all_files(upper: Path) -> None:
    identity.write(upper, OWNER, CONTENT)
    assert (upper / "etc/hosts").read_text() == "127.0.0.1 localhost\n10.0.0.1 i1\n"
    assert (upper / "etc/hostname").read_text() == "i1\n"
    assert (upper / "etc/resolv.conf").read_text() == "nameserver 10.0.0.0\n"
    assert len((upper / "etc/machine-id").read_text().strip()) == 32


def test_a_new_life_of_a_sandbox_keeps_its_machine_id(upper: Path) -> None:
    identity.write(upper, OWNER, CONTENT)
    machine_id = (upper / "etc/machine-id").read_text()
    again = identity.files(address="10.0.0.3", gateway="10.0.0.2", hostname="i1", fresh=False)
    identity.write(upper, OWNER, again)
    assert (upper / "etc/machine-id").read_text() == machine_id
    assert "10.0.0.3 i1" in (upper / "etc/hosts").read_text()


def test_two_sandboxes_have_two_machine_ids() -> None:
    assert identity.files(address="", gateway="", hostname="", fresh=True)["machine-id"] != CONTENT["machine-id"]


@pytest.mark.parametrize(
    "trap",
    [
        lambda upper: (upper / "etc").symlink_to("../victim"),
        lambda upper: (upper / "etc").symlink_to("/nowhere"),
        lambda upper: (upper / "etc").write_text(""),
        lambda upper: os.mkfifo(upper / "etc"),
    ],
)
def test_an_etc_that_is_none_stays_as_it_is(upper: Path, trap: Callable[[Path], None]) -> None:
    trap(upper)
    before = os.lstat(upper / "etc")
    identity.write(upper, OWNER, CONTENT)
    assert os.lstat(upper / "etc") == before
    assert os.listdir(upper.parent / "victim") == ["hosts"]
    assert (upper.parent / "victim/hosts").read_text() == "host"


def test_links_and_pipes_are_replaced_and_directories_stay(upper: Path) -> None:
    etc = upper / "etc"
    etc.mkdir()
    (etc / "hosts").symlink_to("../../victim/hosts")
    os.link(upper.parent / "victim/hosts", etc / "hostname")
    os.mkfifo(etc / "machine-id")
    (etc / "resolv.conf/sub").mkdir(parents=True)
    identity.write(upper, OWNER, CONTENT)
    assert (upper.parent / "victim/hosts").read_text() == "host"
    assert (etc / "hosts").read_text() == CONTENT["hosts"]
    assert (etc / "hostname").read_text() == "i1\n"
    assert (etc / "machine-id").is_file()
    assert (etc / "resolv.conf/sub").is_dir()
