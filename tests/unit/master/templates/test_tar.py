"""The tar reader, against Python's writer, and against damaged and malicious archives."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cube.master.templates.tar import Kind, Member, TarReader
from cube.model.errors import InvalidInput
from support.oci_images import device, directory, fifo, file, hard_link, layer, symlink

LONG = "/".join(["directory-with-a-long-name"] * 12) + "/file"


def read(data: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader(io.BytesIO(data))
    return [(member, b"".join(reader.chunks())) for member in reader]


def checksummed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read(form: int) -> None:
    name = LONG if form != tarfile.USTAR_FORMAT else LONG[-150:]
    entries = [
        directory("etc", mode=0o750, uid=7, gid=8),
        file(name, b"x" * 1000, mode=0o4755, uid=65534, mtime=1_500_000_000),
        symlink("lib", "usr/lib"),
        hard_link("other", name[-100:] if form == tarfile.USTAR_FORMAT else name),
        device("dev/null"),
        fifo("pipe"),
        file("empty"),
    ]
    members = read(layer(*entries, form=form))
    for (member, content), (info, expected) in zip(members, entries, strict=True):
        assert (member.name.rstrip("/"), member.link, content) == (info.name, info.linkname, expected)
        assert (member.mode, member.uid, member.gid) == (info.mode, info.uid, info.gid)
        assert (member.mtime, member.kind.value) == (int(info.mtime), info.type.decode())


def test_extended_headers_win() -> None:
    headers = {"uid": "4000000000", "mtime": "1700000000.75", "SCHILY.xattr.user.note": "a=b\nc", "comment": "ü"}
    ((member, content),) = read(layer(file("ünï", b"data", pax_headers=headers)))
    assert (member.name, member.uid, member.mtime) == ("ünï", 4_000_000_000, 1_700_000_000)
    assert (member.xattrs, content) == ({"user.note": b"a=b\nc"}, b"data")


def test_names_that_are_not_utf_8_survive() -> None:
    header = bytearray(layer(file("x"))[:512])
    header[0:3] = b"\xff\xfe\0"
    ((member, _),) = read(checksummed(header))
    assert member.name.encode(errors="surrogateescape") == b"\xff\xfe"


def test_content_need_not_be_read() -> None:
    data = layer(file("first", b"x" * 5000), file("second", b"y"))
    assert [member.name for member in TarReader(io.BytesIO(data))] == ["first", "second"]


@pytest.mark.parametrize("cut", [100, 512 + 10, 512 + 700, 512 + 1024 + 3])
def test_an_archive_that_is_cut_off_is_an_error(cut: int) -> None:
    with pytest.raises(InvalidInput, match="cut off"):
        read(layer(file("first", b"x" * 1000), file("second", b"y" * 600))[:cut])


def test_a_damaged_header_is_an_error() -> None:
    data = bytearray(layer(file("first"), file("second")))
    data[512] ^= 1
    with pytest.raises(InvalidInput, match="checksum"):
        read(bytes(data))


@pytest.mark.parametrize("kind", [b"S", b"V", b"M", b"D", b"Z", b"\xff"])
def test_members_of_unknown_or_sparse_types_are_refused(kind: bytes) -> None:
    header = bytearray(layer(file("x"))[:512])
    header[156:157] = kind
    with pytest.raises(InvalidInput, match="unknown type"):
        read(checksummed(header))


def test_sparse_files_of_the_pax_kind_are_refused() -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 50)}
    with pytest.raises(InvalidInput, match="sparse"):
        read(layer(file("huge", b"0\n", pax_headers=headers)))


def test_an_extended_header_is_never_read_without_a_bound() -> None:
    header = bytearray(layer(file("x"))[:512])
    header[156:157] = b"x"
    header[124:136] = b"77777777777\0"
    with pytest.raises(InvalidInput, match="extended header of more than"):
        read(checksummed(header) + bytes(4096))


@pytest.mark.parametrize("records", [b"5 a=b\n", b"7 a=b\n", b"x a=b\n", b"6 a=b!", b"2 a=b\n", b"999999 a=b\n", b"6"])
def test_malformed_records_are_refused(records: bytes) -> None:
    header = bytearray(layer(file("x"))[:512])
    header[156:157] = b"x"
    header[124:136] = b"%011o\0" % len(records)
    with pytest.raises(InvalidInput, match="malformed extended"):
        read(checksummed(header) + records.ljust(512, b"\0") + layer(file("x")))


@pytest.mark.parametrize("size", [b"-0000000001\0", b"9\0", b"0x10\0", b"\xff" * 12, b"\x80" + b"\xff" * 11])
def test_impossible_sizes_are_refused(size: bytes) -> None:
    header = bytearray(layer(file("x"))[:512])
    header[124:136] = size.ljust(12, b"\0")
    with pytest.raises(InvalidInput, match="number"):
        read(checksummed(header))


def test_a_size_in_base_256() -> None:
    header = bytearray(layer(file("x"))[:512])
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    ((member, content),) = read(checksummed(header) + b"hello".ljust(512, b"\0"))
    assert (member.size, content) == (5, b"hello")


def test_a_link_has_no_content_whatever_its_header_says() -> None:
    info, _ = hard_link("a", "b")
    header = bytearray(layer((info, b""))[:512])
    header[124:136] = b"%011o\0" % 4096
    ((member, _), (following, _)) = read(checksummed(header) + layer(file("next")))
    assert (member.kind, member.size, following.name) == (Kind.HARD_LINK, 0, "next")


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_flipped_the_reader_ends_with_members_or_a_refusal(data: st.DataObject) -> None:
    archive = bytearray(layer(file(LONG, b"x" * 700), symlink("s", "t"), file("b", pax_headers={"comment": "c"})))
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        members = read(bytes(archive))
    except InvalidInput:
        return
    assert sum(len(content) for _, content in members) <= len(archive)
