"""What root of a sandbox can do with a volume, beside using it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cube.cubelet.volumes import removal
from cube.cubelet.volumes.content import VolumeContent
from cube.cubelet.volumes.layout import VolumeLayout
from cube.cubelet.volumes.places import opened
from cube.cubelet.volumes.store import VolumeStore
from cube.cubelet.volumes.tree import FILES, INCOMING, REMOVED, VolumeTree
from cube.model.errors import Conflict, InvalidInput, NotFound
from cube.model.mounts import VolumeMount
from cube.model.volumes import Attributes
from security.ground import Box, Ground

FIRST, SECOND = "vol-" + "a" * 24, "vol-" + "b" * 24
#: <linux/btrfs.h>: SUBVOL_CREATE, SNAP_CREATE, SUBVOL_CREATE_V2, SNAP_CREATE_V2, SNAP_DESTROY, SYNC, START_SYNC,
#: FS_INFO, INO_LOOKUP_USER, GET_SUBVOL_INFO, DEFRAG, FICLONE.
BTRFS = (
    *(0x5000940E, 0x50009401, 0x50009418, 0x50009417, 0x5000940F, 0x9408, 0x80089418, 0x8400941F),
    *(0xD000943E, 0x81F8943C, 0x50009402, 0x40049409),
)


@pytest.fixture(scope="module")
def store(ground: Ground) -> Iterator[VolumeStore]:
    """Two volumes, which are gone at the end."""
    store = VolumeStore(ground.settings)
    store.open()
    for volume_id in (FIRST, SECOND):
        ground.call(store.create(volume_id, 32))
    yield store
    for volume_id in (FIRST, SECOND):
        ground.call(store.remove(volume_id))


@pytest.fixture(scope="module")
def box(ground: Ground, store: VolumeStore) -> Iterator[Box]:
    """A sandbox with both of them."""
    volumes = (VolumeMount(FIRST, "first", "/mnt/first"), VolumeMount(SECOND, "second", "/srv/second"))
    with ground.sandbox(volumes=volumes) as box:
        yield box


@pytest.fixture
def files(ground: Ground) -> Path:
    """The first volume as the host sees it."""
    return VolumeLayout(ground.settings).directory / FIRST / FILES


@contextmanager
def content(ground: Ground, store: VolumeStore) -> Iterator[VolumeContent]:
    async def get() -> VolumeContent:
        return store.content(FIRST)

    yield ground.call(get())


def test_no_ioctl_of_btrfs_gets_through(box: Box) -> None:
    """Subvolumes of their own would escape the quota; commits and scans of trees would hold up everybody."""
    script = """
import fcntl
numbers = [int(word) for word in sys.argv[1:]]
answers = []
for place in ('/mnt/first', '/'):
    fd = os.open(place, os.O_RDONLY)
    answers += [attempt('ioctl', fd, number & 0xffffffff, bytes(8192)) for number in numbers]
tell(answers)
"""
    answers = box.probe(script, "root", *BTRFS)
    assert set(answers) == {"EPERM"}, answers


def test_owners_of_files_are_nobody_on_the_host(box: Box, ground: Ground, files: Path) -> None:
    box.shell("cd /mnt/first; touch roots; install -m 6755 /bin/true tool; touch last; chown 65535:65535 last")
    base = ground.settings.shared_id_base
    assert ids(files / "roots") == (base, base)
    assert ids(files / "tool") == (base, base)
    assert ids(files / "last") == (base + 65535, base + 65535)
    assert stat.S_IMODE((files / "tool").stat().st_mode) == 0o6755
    assert not box.run("chown 65536 /mnt/first/roots").ok
    assert set(box.shell("findmnt -no OPTIONS /mnt/first").split(",")) >= {"nosuid", "nodev"}


def ids(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_files_of_others_on_the_host_are_nobodys(box: Box, files: Path) -> None:
    (files / "hosts").write_text("of the host's root")
    (files / "hosts").chmod(0o600)
    assert box.shell("stat -c %u:%g /mnt/first/hosts") == "65534:65534"
    assert "Permission denied" in box.run("cat /mnt/first/hosts").stderr
    assert not box.run("chown root /mnt/first/hosts").ok
    (files / "hosts").unlink()


@pytest.mark.parametrize(
    "attack",
    [
        "mknod /mnt/first/device b 7 0",
        "mount -o remount,dev,suid /mnt/first",
        "umount /mnt/first",
        "mount --bind / /mnt/first",
        "chattr +i /mnt/first",
        "ln /etc/passwd /mnt/first/passwd",
        "ln /mnt/first/x /srv/second/x",
        "rmdir /mnt/first",
        "mv /mnt/first /mnt/other",
    ],
)
def test_a_mount_stays_what_it_is(box: Box, attack: str) -> None:
    box.shell("touch /mnt/first/x")
    assert not box.run(attack).ok


def test_above_a_volume_is_the_sandbox(box: Box) -> None:
    assert box.shell("cd /mnt/first; ls -d ../../etc/hostname; cd -P ..; pwd") == "../../etc/hostname\n/mnt"


def test_who_stands_in_a_directory_that_is_removed_sees_nothing_above_it(box: Box, ground: Ground) -> None:
    """It is moved out of what the sandbox sees, while a process is in it."""
    script = """
os.makedirs('/mnt/first/t/inner')
os.chdir('/mnt/first/t/inner')
held = os.open('..', os.O_RDONLY | os.O_DIRECTORY)
print('ready')
sys.stdin.readline()
answers = {}
for name, path in {'parent': '..', 'above': '../..', 'far': '../../../..', 'held': f'/proc/self/fd/{held}/..'}.items():
    try:
        answers[name] = sorted(os.listdir(path))
    except OSError as error:
        answers[name] = errno.errorcode[error.errno]
tell(answers)
"""
    tree = VolumeTree(VolumeLayout(ground.settings).directory / FIRST, ground.settings.shared_id_base)
    with box.background(script) as running:
        with tree.part(FILES) as root, tree.part(REMOVED) as aside:
            removal.take_aside(root, "t", aside)
        answers = running.ask()
    tree.clear()
    assert answers == dict.fromkeys(("parent", "above", "far", "held"), "ENOENT")


def test_links_that_a_sandbox_plants_lead_nowhere(box: Box, ground: Ground, store: VolumeStore) -> None:
    box.shell(
        "cd /mnt/first; mkdir d; for to in / /etc ../../.. /proc/1/root /proc/self/fd/3; do"
        " ln -sfn $to link; cp -d link d/$(echo $to | tr / _); done"
    )
    with content(ground, store) as volume:
        for entry in ground.call(volume.entries("/d", 1)):
            for attempt in (
                volume.entries(entry.path, 1),
                volume.make_dir(f"{entry.path}/new", Attributes(), parents=True),
                volume.update(entry.path, Attributes(mode=0o777)),
                volume.remove(f"{entry.path}/etc"),
                read(volume, f"{entry.path}/etc/passwd"),
            ):
                with pytest.raises((InvalidInput, NotFound)):
                    ground.call(attempt)


async def read(volume: VolumeContent, path: str) -> bytes:
    async with volume.reading(path) as (fd, entry):
        return os.pread(fd, entry.size, 0)


def test_races_of_a_sandbox_never_lead_out(box: Box, ground: Ground, store: VolumeStore) -> None:
    """A directory and a link to the host's root change places while the host reads and writes through the name."""
    script = """
import shutil

def put(name, place):  # where the host may have made a directory, while there was nothing of this name
    while True:
        try:
            return os.rename(name, place)
        except OSError:
            shutil.rmtree(place, ignore_errors=True)

os.makedirs('/mnt/first/race/inside/etc', exist_ok=True)
open('/mnt/first/race/inside/etc/hostname', 'w').write('of the volume')
os.symlink('../../../../../../../..', '/mnt/first/race/link')
os.chdir('/mnt/first/race')
print('ready')
while True:
    put('inside', 'x'); put('link', 'inside'); put('x', 'link')
"""
    answers: set[bytes] = set()
    planted = Path(f"/etc/cube-test-{os.getpid()}")
    with box.background(script), content(ground, store) as volume:
        for _ in range(400):
            try:
                answers.add(ground.call(read(volume, "/race/inside/etc/hostname")))
                ground.call(volume.make_dir(f"/race/inside{planted}", Attributes(), parents=True))
            except (
                InvalidInput,
                NotFound,
                Conflict,
            ):  # a conflict: the link came while it was made
                continue
    assert answers <= {b"of the volume"}
    assert not planted.exists()


def test_a_full_volume_is_full_for_root_too(box: Box, ground: Ground, store: VolumeStore) -> None:
    script = """
made = 0
try:
    with open('/srv/second/big', 'wb', buffering=0) as file:
        while made < 256 << 20:
            made += file.write(bytes(1 << 20))
except OSError as error:
    tell([error.errno, made])
"""
    number, made = box.probe(script)
    assert number == errno.EDQUOT
    assert made <= 32 << 20
    box.shell("dd if=/dev/zero of=/mnt/first/fine bs=1M count=8 status=none && rm /mnt/first/fine")
    box.shell("rm /srv/second/big")


def test_what_is_uploaded_is_not_seen_before_it_is_whole(box: Box, ground: Ground, store: VolumeStore) -> None:
    tree = VolumeTree(VolumeLayout(ground.settings).directory / FIRST, ground.settings.shared_id_base)
    with tree.part(INCOMING) as incoming:
        draft = os.open("half", os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=incoming)
    with opened(draft):
        os.write(draft, b"of another client")
        assert "half" not in box.run("find / -xdev -name half; find /mnt /srv -name half").stdout
    tree.clear()
