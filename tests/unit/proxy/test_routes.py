"""Route records and the table of files."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from cube.model.errors import InvalidInput
from cube.proxy.routes import Route, encode
from cube.proxy.table import RouteTable


def test_record_is_what_the_script_reads() -> None:
    assert encode(Route("abc", "10.0.0.1")) == b"address=10.0.0.1\n"


def test_record_has_the_digest_of_the_token_and_the_host() -> None:
    digest = hashlib.sha256(b"secret").hexdigest().encode()
    record = encode(Route("abc", "10.0.0.1", "secret", "app:${PORT}"))
    assert record == b"address=10.0.0.1\ntoken=" + digest + b"\nhost=app:${PORT}\n"


@pytest.mark.parametrize("host", ["", "a\naddress=1.1.1.1", "a b", "a:b"])
def test_route_needs_a_host_that_is_one(host: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Route("abc", "10.0.0.1", host=host)
    assert caught.value.field == "maskRequestHost"


def test_route_does_not_show_its_token() -> None:
    assert "secret" not in repr(Route("abc", "10.0.0.1", "secret"))


@pytest.mark.parametrize("sandbox_id", ["", "../x", "A", "a.b", "a/b", "a" * 41])
def test_route_needs_a_sandbox_id(sandbox_id: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Route(sandbox_id, "10.0.0.1")
    assert caught.value.field == "sandbox_id"


@pytest.mark.parametrize("address", ["", "localhost", "10.0.0.1\naddress=1.1.1.1", "10.0.0.1:80", "::1", "10.0.0.256"])
def test_route_needs_an_address(address: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Route("abc", address)
    assert caught.value.field == "address"


def test_table_holds_one_record_per_sandbox(tmp_path: Path) -> None:
    table = RouteTable(tmp_path)
    table.add(Route("abc", "10.0.0.1"))
    table.add(Route("def", "10.0.0.2"))
    table.add(Route("abc", "10.0.0.3"))
    records = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert records == {"abc": b"address=10.0.0.3\n", "def": b"address=10.0.0.2\n"}


def test_records_are_readable_for_the_group_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        RouteTable(tmp_path).add(Route("abc", "10.0.0.1"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "abc").stat().st_mode) == 0o640


def test_remove_may_be_repeated(tmp_path: Path) -> None:
    table = RouteTable(tmp_path)
    table.add(Route("abc", "10.0.0.1"))
    table.remove("abc")
    table.remove("abc")
    assert list(tmp_path.iterdir()) == []


def test_clear_removes_drafts_too(tmp_path: Path) -> None:
    table = RouteTable(tmp_path)
    table.add(Route("abc", "10.0.0.1"))
    (tmp_path / ".draft").touch()
    table.clear()
    assert list(tmp_path.iterdir()) == []


def test_remove_takes_no_path(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    outside = tmp_path / "precious"
    outside.touch()
    RouteTable(tmp_path / "table").remove("../precious")
    assert outside.exists()
