"""A directory tree as an erofs image."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from cube.master.templates.process import run
from cube.model.errors import HostError

#: Time stamp of every file: the same tree gives the same image. 2024-01-01, later than anything tools call too old.
EPOCH = 1_704_067_200


async def make_image(tree: Path, image: Path, identity: str) -> None:
    """Write ``tree`` to the new file ``image``; ``identity`` decides the file system's UUID.

    Uncompressed: lz4 makes an image of 827 MB 476 MB large, but takes 19 s instead of 8 s, and the first import of the
    data libraries is not faster from it (measured cold, 2 cores); once in the page cache there is no difference.
    Raises ``HostError`` when mkfs.erofs is missing or fails.
    """
    if shutil.which("mkfs.erofs") is None:
        raise HostError("mkfs.erofs is not installed: apt-get install erofs-utils")
    name = uuid.uuid5(uuid.NAMESPACE_OID, identity)
    await run(["mkfs.erofs", "--quiet", f"-T{EPOCH}", f"-U{name}", str(image), str(tree)])
