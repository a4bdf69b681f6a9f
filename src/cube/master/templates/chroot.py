"""Programs of a trusted tree, run inside it without network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cube.master.templates.process import ISOLATED, run

#: Arguments: tree, uid:gid, directory to show at /mnt or nothing, then the program. The mounts are private to it.
_SCRIPT = """
tree=$1 user=$2 shown=$3; shift 3
mount -t proc -o nosuid,nodev,noexec proc "$tree/proc"
mount -t tmpfs -o mode=755,nosuid,noexec tmpfs "$tree/dev"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$tree/tmp"
mkdir -m 1777 "$tree/dev/shm"
for device in null zero full random urandom; do
    : > "$tree/dev/$device"
    mount --bind "/dev/$device" "$tree/dev/$device"
done
[ -z "$shown" ] || mount -o bind,ro "$shown" "$tree/mnt"
exec chroot --userspec="$user" "$tree" "$@"
"""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def run_inside(
    tree: Path,
    argv: Sequence[str],
    *,
    uid: int = 0,
    home: str = "/root",
    shown: Path | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run ``argv`` with ``tree`` as its root, as user and group ``uid``; ``shown`` appears read-only at /mnt.

    Only for trees made of signed packages: a root program can leave a chroot. Raises ``HostError`` when it fails.
    """
    isolated = [ISOLATED[0], "--net", "--ipc", "--uts", *ISOLATED[1:]]
    script = ["sh", "-euc", _SCRIPT, "sh", str(tree), f"{uid}:{uid}", str(shown or "")]
    environment = ["/usr/bin/env", "-i", f"PATH={_PATH}", f"HOME={home}", "LANG=C.UTF-8"]
    await run([*isolated, *script, *environment, *argv], on_line=on_line)
