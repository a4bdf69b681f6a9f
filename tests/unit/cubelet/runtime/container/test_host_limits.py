from __future__ import annotations

from pathlib import Path

from cube.cubelet.runtime.container.host_limits import MACHINE_WIDE, raise_limits


def tree(root: Path, value: int) -> None:
    for name in MACHINE_WIDE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")


def test_what_is_lower_is_raised(tmp_path: Path) -> None:
    tree(tmp_path, 4096)
    raise_limits(tmp_path)
    assert {name: int((tmp_path / name).read_text()) for name in MACHINE_WIDE} == MACHINE_WIDE


def test_what_is_higher_stays(tmp_path: Path) -> None:
    tree(tmp_path, 1 << 64)
    raise_limits(tmp_path)
    assert {int((tmp_path / name).read_text()) for name in MACHINE_WIDE} == {1 << 64}


def test_a_kernel_without_them_is_no_error(tmp_path: Path) -> None:
    raise_limits(tmp_path)
    assert list(tmp_path.iterdir()) == []
