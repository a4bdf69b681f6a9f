from __future__ import annotations

import os
from pathlib import Path

import pytest

from cube.cubelet.runtime.container.users import user_ids
from support.descriptors import open_fds


@pytest.fixture
def passwd(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc/passwd"


def test_named_users_are_found(passwd: Path) -> None:
    passwd.write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nother:x:1001:1001::/:/bin/sh\n")
    assert user_ids(passwd.parents[1], ["user", "other", "missing"]) == (1000, 1001)


@pytest.mark.parametrize("number", ["9" * 100_000, "99999999999", "-1", "٣٣", "1e3", "", " 7", "0x7"])
def test_what_is_no_number_of_the_kernel_is_left_out(passwd: Path, number: str) -> None:
    passwd.write_text(f"user:x:{number}:0::/:/bin/sh\n")
    assert user_ids(passwd.parents[1], ["user"]) == ()


def test_one_name_has_few_numbers(passwd: Path) -> None:
    passwd.write_text("".join(f"user:x:{number}:0::/:/bin/sh\n" for number in range(5000)))
    assert len(user_ids(passwd.parents[1], ["user"])) == 256


def test_what_is_no_file_has_no_users(passwd: Path) -> None:
    before = len(open_fds())
    passwd.mkdir()
    assert user_ids(passwd.parents[1], ["user"]) == ()
    passwd.rmdir()
    os.mkfifo(passwd)
    assert user_ids(passwd.parents[1], ["user"]) == ()
    passwd.unlink()
    passwd.symlink_to("/etc/passwd")
    assert user_ids(passwd.parents[1], ["root"]) == ()
    assert len(open_fds()) == before


def test_a_linked_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("/etc")
    assert user_ids(tmp_path, ["root"]) == ()
