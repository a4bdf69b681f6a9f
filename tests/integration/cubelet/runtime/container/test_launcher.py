"""Launching real sandboxes: what process 1 has become, and that nothing stays behind when a launch fails."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cube.cubelet.runtime.container import channel, first_process, steps, syscalls
from cube.cubelet.runtime.container.launcher import Launched, Launcher
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.guest.wire import Kind
from cube.model.errors import HostError
from support.descriptors import open_fds
from support.launch_ground import (
    CAPABILITIES,
    ID_BASE,
    ID_COUNT,
    Ground,
    ask,
    childless,
    end,
    exists,
    ground,
    kill,
    make_cgroup,
    read,
    remove_cgroup,
    run,
    status,
)

pytestmark = pytest.mark.root

_NS_GET_USERNS = 0xB701


@pytest.fixture
async def launcher(cube_init: Path) -> AsyncIterator[Launcher]:
    running = Launcher()
    await running.start(cube_init)
    yield running
    await running.close()


@pytest.fixture
async def place(launcher: Launcher, tmp_path: Path) -> AsyncIterator[Ground]:
    async with ground(launcher, tmp_path) as made:
        yield made


@pytest.fixture
async def sandbox(launcher: Launcher, place: Ground) -> AsyncIterator[Launched]:
    launched = await launcher.launch(place.plan())
    yield launched
    await end(launched)


def launcher_pid(launcher: Launcher) -> int:
    assert launcher.pid is not None
    return launcher.pid


class TestInside:
    async def test_it_is_root_of_a_machine_of_its_own(self, sandbox: Launched) -> None:
        assert await run(sandbox.control, "id -u; hostname; pwd; umask") == "0\ninside\n/root\n0022"

    async def test_the_image_belongs_to_root_and_what_is_written_stays_in_the_layer(
        self, sandbox: Launched, place: Ground
    ) -> None:
        found = await run(sandbox.control, "stat -c %u /etc/of-the-image / /tmp; echo new > /etc/of-the-image")
        assert found == "0\n0\n0"
        assert (place.directory / "image/etc/of-the-image").read_text() == "image\n"
        written = place.directory / "lay,er:1/upper/etc/of-the-image"
        assert written.read_text() == "new\n"
        assert written.stat().st_uid == ID_BASE

    async def test_it_has_the_mounts_of_the_plan_and_no_other(self, sandbox: Launched) -> None:
        lines = (await run(sandbox.control, "cat /proc/self/mounts")).splitlines()
        found = {target: (source, fstype) for source, target, fstype, *_ in map(str.split, lines)}
        expected = {"/": "overlay", "/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts"}
        assert {target: found.pop(target) for target in expected} == {t: (fs, fs) for t, fs in expected.items()}
        masked = {"/proc/version", "/proc/acpi", "/sys/firmware"} & set(found)
        assert set(found) - masked == {"/usr", "/run/made/on/the/way", "/proc/sys"}

    async def test_the_tree_of_the_host_is_gone(self, sandbox: Launched, place: Ground) -> None:
        assert await run(sandbox.control, f"test -e {place.directory} || echo gone") == "gone"

    async def test_a_missing_target_is_made_for_the_root_of_the_sandbox(self, sandbox: Launched) -> None:
        found = await run(sandbox.control, "stat -c %u:%a /run /run/made/on/the; stat -f -c %T /run/made/on/the/way")
        assert found == "0:755\n0:755\ntmpfs"

    async def test_files_replace_dangling_links(self, sandbox: Launched) -> None:
        assert await run(sandbox.control, "cat /etc/resolv.conf; stat -c %F /etc/resolv.conf") == (
            "nameserver 192.0.2.1\nregular file"
        )

    async def test_masked_paths_are_empty(self, sandbox: Launched) -> None:
        found = await run(sandbox.control, "wc -c < /proc/version; ls -A /sys/firmware; touch /sys/firmware/x")
        assert found == "0\ntouch: cannot touch '/sys/firmware/x': Read-only file system"

    async def test_read_only_paths_cannot_be_written(self, sandbox: Launched) -> None:
        found = await run(sandbox.control, "echo 1 > /proc/sys/net/ipv4/ip_default_ttl; touch /usr/x")
        assert found.count("Read-only file system") == 2

    async def test_mounts_cannot_be_taken_away_or_added(self, sandbox: Launched) -> None:
        found = await run(sandbox.control, "umount /proc/version; mount -t tmpfs none /root; wc -c < /proc/version")
        assert "must be superuser" in found or "permission denied" in found
        assert found.endswith("\n0")
        assert "/root" not in await run(sandbox.control, "cut -d ' ' -f 2 /proc/mounts")

    async def test_kernel_parameters_of_its_network(self, sandbox: Launched) -> None:
        assert await run(sandbox.control, "cat /proc/sys/net/ipv4/ip_default_ttl") == "42"
        assert read("/proc/sys/net/ipv4/ip_default_ttl") != "42\n"

    async def test_devices_of_an_image_are_dead_and_those_of_the_plan_live(self, sandbox: Launched) -> None:
        found = await run(sandbox.control, "head -c 3 /dev/zero | wc -c; head -c 3 /etc/device; test -c /etc/device")
        assert found == "3\nhead: cannot open '/etc/device' for reading: Permission denied"

    async def test_limits_and_rights_of_its_processes(self, sandbox: Launched) -> None:
        script = (
            "ulimit -Sn; ulimit -Hn; cd /proc/self; cat oom_score_adj; grep -E 'Cap(Eff|Bnd)|NoNew|Seccomp:' status"
        )
        lines = (await run(sandbox.control, script)).split("\n")
        mask = f"{CAPABILITIES:016x}"
        assert lines[:3] == ["512", "1024", "0"]
        assert [line.split()[1] for line in lines[3:]] == [mask, mask, "1", "2"]


class TestProcessOne:
    def test_it_has_given_up_its_rights(self, sandbox: Launched) -> None:
        found = status(sandbox.pid)
        assert found["Uid"].split() == [str(ID_BASE)] * 4
        assert found["Gid"].split() == [str(ID_BASE)] * 4
        assert found["Groups"] == ""
        assert {found[key] for key in ("CapPrm", "CapEff", "CapBnd")} == {f"{CAPABILITIES:016x}"}
        assert {found[key] for key in ("CapInh", "CapAmb")} == {"0" * 16}
        assert (found["NoNewPrivs"], found["Seccomp"], found["NSpid"].split()[-1]) == ("1", "2", "1")

    @pytest.mark.parametrize("kind", ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"])
    def test_namespaces_are_its_own(self, sandbox: Launched, kind: str) -> None:
        assert os.readlink(f"/proc/{sandbox.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")

    @pytest.mark.parametrize("kind", ["cgroup", "ipc", "mnt", "net", "uts"])
    def test_the_host_owns_its_namespaces(self, sandbox: Launched, kind: str) -> None:
        namespace = os.open(f"/proc/{sandbox.pid}/ns/{kind}", os.O_RDONLY)
        owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
        same = os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino
        os.close(owner)
        os.close(namespace)
        assert same

    def test_ids_are_mapped(self, sandbox: Launched) -> None:
        for name in ("uid_map", "gid_map"):
            assert Path(f"/proc/{sandbox.pid}/{name}").read_text().split() == ["0", str(ID_BASE), str(ID_COUNT)]

    def test_it_is_in_its_cgroup_alone(self, sandbox: Launched, place: Ground) -> None:
        assert place.processes() == [str(sandbox.pid)]

    def test_its_out_of_memory_score_is_not_that_of_its_children(self, sandbox: Launched) -> None:
        assert read(f"/proc/{sandbox.pid}/oom_score_adj") == "300\n"

    def test_it_holds_no_descriptor_of_the_host(self, sandbox: Launched) -> None:
        directory = f"/proc/{sandbox.pid}/fd"
        found = [os.readlink(f"{directory}/{fd}").split(":")[0] for fd in os.listdir(directory)]
        assert set(found) <= {"/dev/null", "socket", "anon_inode"}

    def test_it_leads_a_session_and_ignores_no_signal(self, sandbox: Launched) -> None:
        assert os.getsid(sandbox.pid) == sandbox.pid
        assert int(status(sandbox.pid)["SigIgn"], 16) == 0

    async def test_nobody_inside_can_look_into_it(self, sandbox: Launched) -> None:
        found = await run(
            sandbox.control, "ls /proc/1/fd; cat /proc/1/environ; readlink /proc/1/exe; readlink /proc/1/root"
        )
        assert found.count("Permission denied") >= 2
        assert "memfd" not in found

    async def test_it_takes_further_control_connections(self, sandbox: Launched, place: Ground) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second:
            second.connect(str(place.directory / "control"))
            assert (await ask(second, Kind.PING)).kind == Kind.OK
        assert (await ask(sandbox.control, Kind.PING)).kind == Kind.OK

    def test_it_runs_a_copy_that_nobody_can_write(self, sandbox: Launched) -> None:
        executable = f"/proc/{sandbox.pid}/exe"
        assert os.readlink(executable).startswith("/memfd:cube-init")
        with pytest.raises(OSError, match=r"busy|not permitted"):
            os.open(executable, os.O_RDWR)


def instead_of(kind: type[Step], *others: Step) -> Callable[[list[Step]], list[Step]]:
    def replace(found: list[Step]) -> list[Step]:
        index = next(index for index, step in enumerate(found) if isinstance(step, kind))
        return [*found[:index], *others, *found[index + 1 :]]

    return replace


FAILURES = [
    (steps.Hostname, steps.Hostname("x" * 65), "setting the host name x+ failed: Invalid argument"),
    (steps.JoinCgroup, steps.JoinCgroup(0), "joining its cgroup failed"),
    (steps.EnterNet, steps.EnterNet(0), "entering its network namespace failed: Invalid argument"),
    (steps.Staging, steps.Staging("/no/such"), "opening the staging directory /no/such failed: No such file"),
    (steps.AttachHost, steps.AttachHost(0, "/"), "attaching a mount at / failed"),
    (
        steps.Overlay,
        steps.Overlay(("/no/such",)),
        r"mounting its file system \(overlay\) failed: No such file .*\(.+\)",
    ),
    (steps.Bind, steps.Bind("/no/such", "/x"), r"mounting /no/such of the host on /x failed: .* \(source\)"),
    (steps.Mount, steps.Mount("nofs", "/x"), r"mounting nofs on /x failed: No such device \(fsopen\)"),
    (steps.Mount, steps.Mount("tmpfs", "/x", options=(("size", "y"),)), r"on /x failed: .* \(size: .+\)"),
    (steps.Mount, steps.Mount("tmpfs", "/no/.."), r"mounting tmpfs on /no/\.\. failed: Invalid argument"),
    (
        steps.Directory,
        steps.Directory("/etc/passwd", 0o755, 0, 0),
        "making the directory /etc/passwd failed: Not a dir",
    ),
    (steps.File, steps.File("/etc", 0o644, 0, 0, b""), "writing the file /etc failed: Is a directory"),
    (steps.Sysctl, steps.Sysctl("../sysrq-trigger", "x"), "setting .* failed: Invalid cross-device link"),
    (steps.Sysctl, steps.Sysctl("net/no_such", "x"), "setting net.no_such to x failed: No such file"),
    (steps.OomScore, steps.OomScore(5000), "setting the out-of-memory score 5000 failed: Invalid argument"),
    (steps.ResourceLimit, steps.ResourceLimit(99, 0, 0), "setting resource limit 99 failed: Invalid argument"),
    (steps.EnterUser, steps.EnterUser(0), r"entering its user namespace failed: .* \(setns\)"),
    (steps.Seccomp, steps.Seccomp(b"x"), "installing the system call filter failed: Invalid argument"),
    (steps.Pivot, steps.Bind("/usr", "/a\0b"), "mounting /usr of the host .* failed: Bad message"),
]


class TestFailure:
    @pytest.mark.parametrize(("kind", "step", "words"), FAILURES, ids=[str(step) for _, step, _ in FAILURES])
    async def test_it_names_the_step_and_leaves_nothing(
        self, launcher: Launcher, place: Ground, kind: type[Step], step: Step, words: str
    ) -> None:
        before = open_fds()
        with pytest.raises(HostError, match=words):
            await launcher.launch(place.plan(replace=instead_of(kind, step)))
        assert await childless(launcher_pid(launcher))
        assert place.processes() == []
        assert open_fds() == before

    async def test_a_host_path_after_the_change_of_root_is_refused(self, launcher: Launcher, place: Ground) -> None:
        plan = place.plan(replace=instead_of(steps.Pivot, steps.Pivot(), steps.Bind("/usr", "/x")))
        with pytest.raises(HostError, match="mounting /usr of the host on /x failed: Invalid argument"):
            await launcher.launch(plan)

    async def test_a_closed_descriptor_fails_this_start_alone(self, launcher: Launcher, place: Ground) -> None:
        closed = 9999
        with pytest.raises(HostError, match="Bad file descriptor"):
            await launcher.launch(place.plan(replace=instead_of(steps.EnterNet, steps.EnterNet(closed))))
        await end(await launcher.launch(place.plan()))

    async def test_user_namespaces_that_the_kernel_refuses(self, launcher: Launcher) -> None:
        with pytest.raises(HostError, match="making a user namespace failed: Invalid argument"):
            await launcher.userns(ID_BASE, 0)
        assert await childless(launcher_pid(launcher))


class TestIdMaps:
    async def test_ids_stand_for_others_in_a_mount(self, launcher: Launcher, tmp_path: Path) -> None:
        os.chmod(tmp_path, 0o755)  # whose owner is nobody through the map: not even root may pass otherwise
        for uid in (10, 77, 500):
            (tmp_path / str(uid)).touch()
            os.chown(tmp_path / str(uid), uid, uid)
        id_map = await launcher.id_map(ID_BASE, [(10, ID_BASE, 5), (77, ID_BASE + 5, 1)])
        tree = syscalls.open_tree(str(tmp_path))
        try:
            syscalls.mount_setattr(tree, MountAttr.IDMAP, userns=id_map, private=True)
            seen = {name: os.stat(name, dir_fd=tree) for name in ("10", "77", "500")}
        finally:
            os.close(tree)
            os.close(id_map)
        assert {name: (status.st_uid, status.st_gid) for name, status in seen.items()} == {
            "10": (ID_BASE, ID_BASE),
            "77": (ID_BASE + 5, ID_BASE + 5),
            "500": (65534, 65534),
        }

    @pytest.mark.parametrize(
        ("extents", "reason"),
        [
            ([], "Invalid argument"),
            ([(0, ID_BASE, 2), (1, ID_BASE + 5, 2)], "Invalid argument"),
            ([(number, ID_BASE + number, 1) for number in range(9)], "Bad message"),
        ],
    )
    async def test_maps_that_make_no_sense(
        self, launcher: Launcher, extents: list[tuple[int, int, int]], reason: str
    ) -> None:
        before = open_fds()
        with pytest.raises(HostError, match=reason):
            await launcher.id_map(ID_BASE, extents)
        assert await childless(launcher_pid(launcher))
        assert open_fds() == before


class TestTargets:
    async def test_links_of_the_image_do_not_lead_out(self, launcher: Launcher, place: Ground, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (tmp_path / "image/link").symlink_to(outside)
        (tmp_path / "image/up").symlink_to("../../../..")
        (tmp_path / f"image{outside}").mkdir(parents=True)
        place.extra += [
            steps.File("/link/file", 0o644, ID_BASE, ID_BASE, b"x"),
            steps.Mount("tmpfs", "/link/mount"),
            steps.Directory("/up/top", 0o755, ID_BASE, ID_BASE),
        ]
        sandbox = await launcher.launch(place.plan())
        found = await run(sandbox.control, f"ls {outside}; ls -d /top")
        await end(sandbox)
        assert found == "file\nmount\n/top"
        assert os.listdir(outside) == []

    async def test_magic_links_are_refused(self, launcher: Launcher, place: Ground) -> None:
        place.extra.append(steps.File("/proc/1/root/x", 0o644, 0, 0, b""))
        with pytest.raises(HostError, match="writing the file /proc/1/root/x failed: Too many levels"):
            await launcher.launch(place.plan())

    async def test_a_mount_on_a_dangling_link_replaces_it(self, launcher: Launcher, place: Ground) -> None:
        (place.directory / "image/etc/dangling").symlink_to("/no/where")
        place.extra.append(steps.Bind("/etc/passwd", "/etc/dangling"))
        sandbox = await launcher.launch(place.plan())
        found = await run(sandbox.control, "head -c 4 /etc/dangling")
        await end(sandbox)
        assert found == "root"


class TestCancellation:
    @pytest.mark.parametrize("turns", range(12))
    async def test_a_cancelled_launch_leaves_nothing(self, launcher: Launcher, place: Ground, turns: int) -> None:
        before = open_fds()
        task = asyncio.create_task(launcher.launch(place.plan()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        # After some turns it may have been too late to cancel.
        if isinstance(result, Launched) and turns > 1:
            await end(result)
        else:
            assert isinstance(result, asyncio.CancelledError)
        assert await childless(launcher_pid(launcher))
        assert place.processes() == []
        assert open_fds() == before

    async def test_a_launch_that_hangs_can_be_cancelled(self, launcher: Launcher, place: Ground) -> None:
        before = open_fds()
        with FullPipe() as pipe:
            hanging = place.plan(replace=instead_of(steps.EnterNet, steps.JoinCgroup(pipe)))
            task = asyncio.create_task(launcher.launch(hanging))
            while not place.processes():  # noqa: ASYNC110  a cgroup tells nobody who joins it
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert place.processes() == []
        assert open_fds() == before

    async def test_a_launch_that_hangs_fails_in_time(
        self, launcher: Launcher, place: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(first_process, "ANSWER_SECONDS", 0.1)
        with FullPipe() as pipe, pytest.raises(HostError, match=r"was not ready within 0\.1 seconds"):
            await launcher.launch(place.plan(replace=instead_of(steps.EnterNet, steps.JoinCgroup(pipe))))
        assert place.processes() == []

    async def test_a_cancelled_user_namespace_is_closed(self, launcher: Launcher) -> None:
        before = open_fds()
        task = asyncio.create_task(launcher.userns(ID_BASE, ID_COUNT))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_fds() == before


class FullPipe:
    """The write end of a pipe that is full: writing to it blocks."""

    def __enter__(self) -> int:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        os.write(self._write, bytes(fcntl.fcntl(self._write, fcntl.F_GETPIPE_SZ)))
        os.set_blocking(self._write, True)
        return self._write

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        os.close(self._write)


class TestLauncherProcess:
    async def test_sandboxes_outlive_it_and_it_is_started_again(
        self, launcher: Launcher, sandbox: Launched, tmp_path: Path
    ) -> None:
        first = launcher_pid(launcher)
        await kill(first)
        assert (await ask(sandbox.control, Kind.PING)).kind == Kind.OK
        async with ground(launcher, tmp_path / "second") as place:
            await end(await launcher.launch(place.plan()))
        assert launcher_pid(launcher) != first
        assert not exists(first)

    async def test_a_launch_under_way_fails_with_it(self, launcher: Launcher, place: Ground) -> None:
        before = open_fds()
        os.kill(launcher_pid(launcher), signal.SIGSTOP)
        task = asyncio.create_task(launcher.launch(place.plan()))
        await asyncio.sleep(0)
        os.kill(launcher_pid(launcher), signal.SIGKILL)
        with pytest.raises(HostError, match="the launcher has ended"):
            await task
        assert place.processes() == []
        assert len(open_fds()) <= len(before)

    async def test_a_process_that_is_being_started_dies_with_it(self, launcher: Launcher, place: Ground) -> None:
        with FullPipe() as pipe:
            hanging = place.plan(replace=instead_of(steps.EnterNet, steps.JoinCgroup(pipe)))
            task = asyncio.create_task(launcher.launch(hanging))
            while not place.processes():  # noqa: ASYNC110  a cgroup tells nobody who joins it
                await asyncio.sleep(0.001)
            await kill(launcher_pid(launcher))
            with pytest.raises(HostError, match="ended before it was ready"):
                await task
        assert place.processes() == []

    async def test_one_that_does_not_answer_is_replaced(
        self, launcher: Launcher, place: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stopped = launcher_pid(launcher)
        os.kill(stopped, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(channel, "ANSWER_SECONDS", 0.1)
            patch.setattr("cube.helper.process._END_S", 0.1)
            with pytest.raises(HostError, match="does not answer"):
                await launcher.launch(place.plan())
            namespace = await launcher.userns(ID_BASE, ID_COUNT)
        os.close(namespace)
        assert not exists(stopped)

    async def test_it_ends_when_closed_and_sandboxes_do_not(self, cube_init: Path, tmp_path: Path) -> None:
        before = open_fds()
        launcher = Launcher()
        await launcher.start(cube_init)
        pid = launcher_pid(launcher)
        async with ground(launcher, tmp_path) as place:
            sandbox = await launcher.launch(place.plan())
            await launcher.close()
            await launcher.close()
            assert not exists(pid)
            assert (await ask(sandbox.control, Kind.PING)).kind == Kind.OK
            await end(sandbox)
        assert open_fds() == before
        with pytest.raises(HostError, match="not running"):
            await launcher.userns(ID_BASE, ID_COUNT)

    async def test_a_program_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(HostError, match="cube-init cannot be read"):
            await Launcher().start(tmp_path / "missing")

    async def test_a_program_that_is_none(self, tmp_path: Path) -> None:
        program = tmp_path / "text"
        program.write_text("not a program")
        launcher = Launcher()
        with pytest.raises(HostError, match="cube-init cannot be executed"):
            await launcher.start(program)


async def test_it_can_be_born_in_its_cgroup(launcher: Launcher, place: Ground) -> None:
    cgroup = make_cgroup(("/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sandbox = await launcher.launch(place.plan(replace=lambda found: [steps.CloneIntoCgroup(directory), *found]))
        assert read(cgroup / "cgroup.procs").split() == [str(sandbox.pid)]
        await end(sandbox)
    finally:
        os.close(directory)
        await remove_cgroup(cgroup)


async def test_it_cannot_be_born_again(launcher: Launcher, place: Ground) -> None:
    place.extra.append(steps.CloneIntoCgroup(0))
    with pytest.raises(HostError, match="being born in its cgroup failed: Bad message"):
        await launcher.launch(place.plan())


async def test_a_cgroup_that_cannot_be_born_into(launcher: Launcher, place: Ground) -> None:
    with pytest.raises(HostError, match=r"making its first process failed: .+ \(clone3\)"):
        await launcher.launch(place.plan(replace=lambda found: [steps.CloneIntoCgroup(0), *found]))
    assert await childless(launcher_pid(launcher))


async def test_a_plan_may_be_long(launcher: Launcher, place: Ground) -> None:
    place.extra += [steps.File(f"/etc/{n}", 0o644, ID_BASE, ID_BASE, bytes(10_000)) for n in range(100)]
    sandbox = await launcher.launch(place.plan())
    found = await run(sandbox.control, "cat /etc/? /etc/?? | wc -c")
    await end(sandbox)
    assert found == "1000000"


async def test_a_plan_may_be_too_long(launcher: Launcher, place: Ground) -> None:
    place.extra += [steps.Mask("/x")] * 256
    with pytest.raises(HostError, match="making its first process failed: Bad message"):
        await launcher.launch(place.plan())


async def test_many_at_once_are_all_started(launcher: Launcher, tmp_path: Path) -> None:
    before = open_fds()

    async def one(number: int) -> int:
        async with ground(launcher, tmp_path / str(number)) as place:
            sandbox = await launcher.launch(place.plan())
            pid = int(await run(sandbox.control, "echo $PPID"))
            await end(sandbox)
            assert place.processes() == []
            return pid

    assert await asyncio.gather(*(one(number) for number in range(50))) == [1] * 50
    assert await childless(launcher_pid(launcher))
    assert open_fds() == before
