"""Who code in a sandbox is, for the kernel of the host and for itself; and that nothing makes it more."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.runtime.container.rootfs import CAPABILITY_MASK
from cube.cubelet.runtime.container.seats import ID_RANGE
from security.ground import Box, Ground

BOTH = pytest.mark.parametrize("user", ["root", "user"])


def on_host(pid: int | str) -> dict[str, str]:
    """What the host's /proc says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def everyone(box: Box) -> list[str]:
    """Host's numbers of all processes of a sandbox."""
    namespace = Path(f"/proc/{box.pid}/ns/pid").stat().st_ino
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/pid").stat().st_ino == namespace:
                found.append(process.name)
        except OSError:
            continue
    return found


@BOTH
def test_ids_are_mapped_into_the_range_of_the_seat(sandbox: Box, user: str) -> None:
    """Root inside is nobody outside: the base of every later row. Maps cover one range of 65,536 ids."""
    base = sandbox.instance.seat.id_base
    for name in ("uid_map", "gid_map"):
        assert sandbox.shell(f"cat /proc/self/{name}", user).split() == ["0", str(base), str(ID_RANGE)]


def test_every_process_has_ids_of_the_seat_on_the_host(sandbox: Box) -> None:
    """All ids (real, effective, saved, file system, supplementary) of all processes are unprivileged on the host."""
    base = sandbox.instance.seat.id_base
    with (
        sandbox.background("tell(1); sys.stdin.read()", "root"),
        sandbox.background("tell(1); sys.stdin.read()", "user"),
    ):
        processes = [on_host(pid) for pid in everyone(sandbox)]
    assert len(processes) >= 3
    for process in processes:
        ids = [int(number) for key in ("Uid", "Gid", "Groups") for number in process[key].split()]
        assert all(base <= number < base + ID_RANGE for number in ids), process["Name"]


def test_two_sandboxes_have_disjoint_ids(ground: Ground, sandbox: Box) -> None:
    """A file or process of one sandbox belongs to nobody whom the other could become."""
    with ground.sandbox() as other:
        first, second = sandbox.instance.seat.id_base, other.instance.seat.id_base
        assert abs(first - second) >= ID_RANGE
        assert {on_host(sandbox.pid)["Uid"].split()[0], on_host(other.pid)["Uid"].split()[0]} == {
            str(first),
            str(second),
        }


def test_an_id_outside_of_the_range_cannot_be_taken(sandbox: Box) -> None:
    """setuid and chown to an id that the namespace does not map: host ids beyond the range stay out of reach."""
    base = sandbox.instance.seat.id_base
    assert sandbox.probe(f"""
open('/tmp/mine', 'w').close()
tell([[child(os.setuid, number), outcome(os.chown, '/tmp/mine', number, -1)] for number in ({ID_RANGE}, {base})])
""") == [["EINVAL", "EINVAL"]] * 2  # fmt: skip


@pytest.mark.parametrize(("user", "expected"), [("root", CAPABILITY_MASK), ("user", 0)])
def test_capabilities_are_exactly_those_of_the_policy(sandbox: Box, user: str, expected: int) -> None:
    """More than Docker's set, or any inheritable one (CVE-2022-24769), is a way to raise privileges."""
    found = sandbox.probe("tell(status())", user)
    sets = {name: int(found[f"Cap{name}"], 16) for name in ("Prm", "Eff", "Bnd", "Inh", "Amb")}
    assert sets == {"Prm": expected, "Eff": expected, "Bnd": CAPABILITY_MASK, "Inh": 0, "Amb": 0}


@BOTH
def test_no_new_privileges_and_the_filter_are_on(sandbox: Box, user: str) -> None:
    """no_new_privs makes set-uid programs powerless; seccomp in filter mode; nobody can take either away."""
    found = sandbox.probe("libc.prctl(38, 0, 0, 0, 0); tell(status())", user)
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")


def test_process_1_and_its_helpers_have_no_more_than_root_inside(sandbox: Box) -> None:
    """The process that serves the host must not be worth attacking: same capabilities, same filter."""
    found = on_host(sandbox.pid)
    assert int(found["CapPrm"], 16) == int(found["CapBnd"], 16) == CAPABILITY_MASK
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_a_set_uid_copy_of_python_stays_the_user(sandbox: Box) -> None:
    """The classic: a set-uid interpreter owned by root, run by the ordinary user."""
    sandbox.shell("cp /usr/bin/python3 /opt/suid && chown 0:0 /opt/suid && chmod 6755 /opt/suid")
    assert sandbox.shell("/opt/suid -SE -c 'import os; print(os.getresuid(), os.getresgid())'", "user") == (
        "(1000, 1000, 1000) (1000, 1000, 1000)"
    )


@BOTH
def test_a_set_uid_file_and_a_nested_user_namespace_together(sandbox: Box, user: str) -> None:
    """A set-uid program of root, run where its caller would be root of a namespace of its own: the two only work
    together, one makes the other's rights real."""
    sandbox.shell("cp /usr/bin/python3 /opt/nested && chown 0:0 /opt/nested && chmod 6755 /opt/nested")
    script = """
def nest():
    call('unshare', 0x10000000)  # CLONE_NEWUSER
    for name, content in (('setgroups', 'deny'), ('uid_map', '0 0 1'), ('gid_map', '0 0 1')):
        Path('/proc/self', name).write_text(content)
    os.execv('/opt/nested', ['/opt/nested', '-SE', '-c', 'import os; os.mkdir("/root/nested", 0o4777)'])
def map_another():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        Path(f'/proc/{pid}/uid_map').write_text('0 0 65536')
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
tell([child(nest), child(map_another), child(lambda: call('unshare', 0x10020000))])
"""
    assert sandbox.probe(script, user) == ["EPERM", "EPERM", "EPERM"]
    assert not sandbox.run("test -e /root/nested").ok


@pytest.mark.parametrize("capabilities", [0xFFFF_FFFF, 1 << 1], ids=["all", "of the bounding set"])
def test_file_capabilities_give_nothing(sandbox: Box, capabilities: int) -> None:
    """Root inside may write security.capability (SETFCAP); executing the file must not raise the user."""
    sandbox.probe(f"""
import shutil
shutil.copy('/usr/bin/python3', '/opt/capable')
os.setxattr('/opt/capable', 'security.capability', struct.pack('<IIIII', 0x02000001, {capabilities}, 0, 0, 0))
tell(0)
""")
    program = "print([line for line in open('/proc/self/status') if line[:6] in ('CapPrm', 'CapEff')])"
    found = sandbox.run(f'/opt/capable -SE -c "{program}"', user="user")
    # The kernel refuses to execute what asks for more than the bounding set has; else the file gives nothing.
    assert found.exit == 126 or found.stdout.count("\\t0000000000000000") == 2, found


def test_set_uid_files_of_a_sandbox_are_powerless_on_the_host(sandbox: Box) -> None:
    """A set-uid file in the writable layer, executed by a user of the host: its owner is not the host's root there."""
    sandbox.shell("cp /usr/bin/python3 /opt/root-on-host && chmod 4755 /opt/root-on-host")
    (file,) = sandbox.ground.settings.volume_dir.glob("layers/*/upper/opt/root-on-host")
    assert file.stat().st_uid == sandbox.instance.seat.id_base
    assert sandbox.ground.settings.volume_dir.stat().st_mode & 0o077 == 0


def test_ambient_and_inheritable_capabilities_cannot_be_raised(sandbox: Box) -> None:
    """PR_CAP_AMBIENT_RAISE and capset beyond the permitted set: CAP_SYS_ADMIN stays away."""
    assert sandbox.probe("""
def raise_all():
    header = struct.pack('<II', 0x20080522, 0)
    call('capset', header, struct.pack('<IIIIII', *(6 * [0xffffffff])))
def ambient():
    call('prctl', 47, 2, 21, 0, 0)
tell([child(raise_all), child(ambient)])
""") == ["EPERM", "EPERM"]  # fmt: skip


def test_securebits_and_keepcaps_do_not_carry_capabilities_to_the_user(sandbox: Box) -> None:
    """Root that becomes the user keeps capabilities only for itself; an executed program has none."""
    assert sandbox.probe("""
def execute():
    libc.prctl(8, 1, 0, 0, 0)
    os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
    code = os.spawnv(os.P_WAIT, '/bin/grep', ['grep', '-q', 'CapEff:\\t0000000000000000', '/proc/self/status'])
    if code: raise OSError(code, '')
tell(child(execute))
""") == "ok"  # fmt: skip
