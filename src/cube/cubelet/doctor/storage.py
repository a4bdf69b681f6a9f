"""Probes of storage: overlayfs, erofs, id-mapped mounts, quotas. Each really mounts, in a mount namespace of its
own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cube.cubelet.doctor.check import Check, in_child, limited, missing, ok
from cube.cubelet.doctor.kernel import unshare
from cube.settings import Settings


def _in_private_tree(attempt: Callable[[Path], str]) -> tuple[bool, str]:
    """Run ``attempt`` with an empty directory on a tmpfs that nobody else sees."""

    def child() -> str:
        unshare("mount")
        _run("mount", "--make-rprivate", "/")
        _run("mount", "-t", "tmpfs", "tmpfs", directory)
        return attempt(Path(directory))

    with tempfile.TemporaryDirectory(prefix="cube-doctor-") as directory:
        return in_child(child)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["failed"]
        raise OSError(f"{' '.join(arguments[:3])}…: {reason[-1]}")


def overlayfs() -> Check:
    """Whether an overlay can be mounted and written to."""

    def attempt(tree: Path) -> str:
        for name in ("lower", "upper", "work", "merged"):
            (tree / name).mkdir()
        options = f"lowerdir={tree}/lower,upperdir={tree}/upper,workdir={tree}/work"
        _run("mount", "-t", "overlay", "overlay", "-o", options, f"{tree}/merged")
        (tree / "merged/file").write_text("x")
        return "mounted and written"

    worked, detail = _in_private_tree(attempt)
    return ok(detail) if worked else missing(detail, "The writable layer of a sandbox is an overlay.")


def erofs() -> Check:
    """Whether an erofs image can be mounted, straight from its file or through a loop device."""
    if shutil.which("mkfs.erofs") is None:
        return missing("mkfs.erofs is not installed", "Templates are erofs images: apt-get install erofs-utils.")
    worked, detail = _in_private_tree(lambda tree: _mount_erofs(tree, loop=False))
    if worked:
        return ok("mounted from a file, without a loop device")
    worked, detail = _in_private_tree(lambda tree: _mount_erofs(tree, loop=True))
    if worked:
        return ok("mounted through a loop device")
    return missing(detail, "Templates are erofs images; this kernel cannot mount them.")


def _mount_erofs(tree: Path, *, loop: bool) -> str:
    for name in ("content", "mounted"):
        (tree / name).mkdir()
    (tree / "content/file").write_text("x")
    _run("mkfs.erofs", f"{tree}/image", f"{tree}/content")
    options = "ro,loop" if loop else "ro"
    # mount(8) sets up a loop device by itself for a file; the internal helper asks the kernel plainly.
    _run("mount", *([] if loop else ["-i"]), "-t", "erofs", "-o", options, f"{tree}/image", f"{tree}/mounted")
    content = (tree / "mounted/file").read_text()
    _run("umount", f"{tree}/mounted")
    return content


def id_mapped_mounts() -> Check:
    """Whether a mount can show files under other ids."""
    worked, detail = in_child(_map_a_mount)
    if worked:
        return ok(detail)
    return missing(detail, "Images are shared between sandboxes of different id ranges by id-mapped mounts.")


def _map_a_mount() -> str:
    from cube.cubelet.runtime.container import syscalls

    unshare("mount")
    tree = syscalls.open_tree("/usr")
    namespace = _user_namespace(0x7000_0000)
    syscalls.mount_setattr(tree, syscalls.MountAttr.IDMAP, userns=namespace)
    owner = os.stat(".", dir_fd=tree).st_uid
    if owner != 0x7000_0000:
        raise OSError(f"the owner shows as {owner}")
    return "/usr shown under other ids"


def _user_namespace(base: int) -> int:
    """A descriptor of a user namespace that maps 65,536 ids to ``base``."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        unshare("user")
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{child}/{kind}").write_text(f"0 {base} 65536")
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    return namespace


def quotas() -> Check:
    """Whether writable layers can be limited: btrfs with simple or ordinary quota groups."""
    if shutil.which("mkfs.btrfs") is None:
        return missing("mkfs.btrfs is not installed", "Writable layers live on btrfs: apt-get install btrfs-progs.")
    worked, detail = _in_private_tree(_enable_quotas)
    if worked:
        return ok(detail)
    return limited(detail, "Writable layers are not limited in size; a sandbox can fill the disk.")


def _enable_quotas(tree: Path) -> str:
    from cube.cubelet.storage import btrfs

    image, point = tree / "image", tree / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    _run("mkfs.btrfs", "--quiet", str(image))
    _run("mount", "-o", "loop", str(image), str(point))
    try:
        return f"btrfs with {btrfs.enable_quotas(point)} quotas"
    finally:
        _run("umount", str(point))


def run_directory() -> Check:
    """Whether ``CUBE_RUN_DIR`` is in memory, where files are made and removed at no cost."""
    from cube.cubelet.storage import mounts

    directory = Settings().run_dir
    file_system = mounts.holding(directory).file_system
    if file_system in ("tmpfs", "ramfs"):
        return ok(f"{directory} is in memory")
    return limited(
        f"{directory} is on {file_system}",
        "Some hundred sandboxes make the next ones start up to 3 ms later there: set CUBE_RUN_DIR to a directory in "
        "memory, such as /dev/shm/cube.",
    )
