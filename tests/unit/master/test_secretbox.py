from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cube.master.store.secretbox import SecretBox
from cube.model.errors import HostError


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "secret.key"


def test_the_key_is_made_once_for_its_owner_only(key_file: Path) -> None:
    sealed = SecretBox.from_file(key_file).seal(b"token", b"i1")
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert SecretBox.from_file(key_file).open(sealed, b"i1") == b"token"
    assert [path.name for path in key_file.parent.iterdir()] == ["secret.key"]


def test_makers_at_the_same_time_use_one_key(key_file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        boxes = list(pool.map(lambda _: SecretBox.from_file(key_file), range(8)))
    sealed = boxes[0].seal(b"token", b"i1")
    assert {box.open(sealed, b"i1") for box in boxes} == {b"token"}


def test_what_is_sealed_shows_nothing_and_never_looks_the_same(key_file: Path) -> None:
    box = SecretBox.from_file(key_file)
    first, second = box.seal(b"visible", b"i1"), box.seal(b"visible", b"i1")
    assert b"visible" not in first
    assert first != second


def test_it_opens_only_for_its_own_row(key_file: Path) -> None:
    box = SecretBox.from_file(key_file)
    with pytest.raises(HostError, match="put back the key"):
        box.open(box.seal(b"token", b"i1"), b"i2")


def test_it_opens_only_with_its_own_key(key_file: Path, tmp_path: Path) -> None:
    other = SecretBox.from_file(tmp_path / "other.key")
    with pytest.raises(HostError, match="put back the key"):
        SecretBox.from_file(key_file).open(other.seal(b"token", b"i1"), b"i1")


@pytest.mark.parametrize("place", range(40))
def test_a_changed_byte_is_noticed(key_file: Path, place: int) -> None:
    box = SecretBox.from_file(key_file)
    sealed = bytearray(box.seal(b"twelve bytes", b"i1"))
    sealed[place] ^= 1
    with pytest.raises(HostError):
        box.open(bytes(sealed), b"i1")


@pytest.mark.parametrize("length", [0, 1, 5, 13, 20])
def test_a_cut_value_is_noticed(key_file: Path, length: int) -> None:
    box = SecretBox.from_file(key_file)
    with pytest.raises(HostError):
        box.open(box.seal(b"token", b"i1")[:length], b"i1")


def test_a_key_that_others_may_read_is_refused(key_file: Path) -> None:
    SecretBox.from_file(key_file)
    key_file.chmod(0o640)
    with pytest.raises(HostError, match="chmod 600"):
        SecretBox.from_file(key_file)


@pytest.mark.parametrize("content", ["", "zz", "ab" * 31, "ab" * 33, "é"])
def test_a_file_that_is_no_key_is_refused(key_file: Path, content: str) -> None:
    key_file.write_text(content)
    key_file.chmod(0o600)
    with pytest.raises(HostError, match="not a key"):
        SecretBox.from_file(key_file)


def test_digests_depend_on_the_key_and_on_where_parts_end(key_file: Path, tmp_path: Path) -> None:
    box, other = SecretBox.from_file(key_file), SecretBox.from_file(tmp_path / "other.key")
    assert box.digest(b"ab", b"c") == SecretBox.from_file(key_file).digest(b"ab", b"c")
    assert len({box.digest(b"ab", b"c"), box.digest(b"a", b"bc"), box.digest(b"abc"), other.digest(b"ab", b"c")}) == 4
