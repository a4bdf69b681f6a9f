"""Request numbers of the ioctls, against those that strace shows for btrfs-progs."""

from __future__ import annotations

import pytest

from cube.cubelet.storage import btrfs


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (btrfs.RESIZE, 0x50009403),
        (btrfs.SUBVOL_CREATE, 0x5000940E),
        (btrfs.SNAP_DESTROY, 0x5000940F),
        (btrfs.INO_LOOKUP, 0xD0009412),
        (btrfs.SNAP_CREATE_V2, 0x50009417),
        (btrfs.FS_INFO, 0x8400941F),
        (btrfs.QUOTA_CTL, 0xC0109428),
        (btrfs.QGROUP_CREATE, 0x4010942A),
        (btrfs.QGROUP_LIMIT, 0x8030942B),
    ],
)
def test_request_numbers(number: int, expected: int) -> None:
    assert number == expected


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a\0b", "x" * 4088])
def test_a_name_that_is_no_file_name_never_reaches_the_kernel(name: str) -> None:
    with pytest.raises(ValueError, match="subvolume name"):
        btrfs.subvol_create(-1, name)
