"""Directory entries on the wire."""

from __future__ import annotations

import stat

from protobuf.wkt import Timestamp

from cube.envd.guest import Entry
from cube.envd.guest import FileType as GuestFileType
from cube.envd.proto.filesystem.filesystem_pb import EntryInfo, FileType

#: File types as Go's ``fs.FileMode.String`` marks them; envd sends its text.
_TYPE_MARKS = {
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "L",
    stat.S_IFBLK: "D",
    stat.S_IFCHR: "Dc",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "S",
}
_FILE_TYPES = {
    GuestFileType.UNSPECIFIED: FileType.UNSPECIFIED,
    GuestFileType.FILE: FileType.FILE,
    GuestFileType.DIRECTORY: FileType.DIRECTORY,
    GuestFileType.SYMLINK: FileType.SYMLINK,
}
_BILLION = 1_000_000_000


def entry_info(entry: Entry) -> EntryInfo:
    """The wire form of an entry."""
    return EntryInfo(
        name=entry.name,
        type=_FILE_TYPES[entry.type],
        path=entry.path,
        size=entry.size,
        mode=entry.mode & 0o777,
        permissions=permissions(entry.link_mode),
        owner=entry.owner,
        group=entry.group,
        modified_time=Timestamp(seconds=entry.mtime_ns // _BILLION, nanos=entry.mtime_ns % _BILLION),
        symlink_target=entry.target or None,
        metadata=dict(entry.metadata),
        is_symlink=stat.S_ISLNK(entry.link_mode),
    )


def permissions(mode: int) -> str:
    """Type and permission bits as Go prints them: ``-rw-r--r--``, ``dtrwxrwxrwx``, ``Lrwxrwxrwx``."""
    marks = _TYPE_MARKS.get(stat.S_IFMT(mode), "")
    # Go's order of marks: dalTLDpSugct.
    marks = marks.replace("c", "")
    marks += "u" * bool(mode & stat.S_ISUID) + "g" * bool(mode & stat.S_ISGID)
    marks += "c" * stat.S_ISCHR(mode) + "t" * bool(mode & stat.S_ISVTX)
    return (marks or "-") + stat.filemode(mode & 0o777)[1:]
