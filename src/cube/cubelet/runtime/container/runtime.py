"""The container runtime: puts seats, images, layers and the launcher together into sandboxes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from cube.cubelet.cgroups.detect import detect
from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.runtime.base import Capabilities, Found, Instance, LocalGuest
from cube.cubelet.runtime.container import rootfs, syscalls, users
from cube.cubelet.runtime.container.attachments import Attachment, Attachments
from cube.cubelet.runtime.container.binary import find_cube_init
from cube.cubelet.runtime.container.guest import ContainerGuest
from cube.cubelet.runtime.container.host_limits import raise_limits
from cube.cubelet.runtime.container.launcher import Launched, Launcher
from cube.cubelet.runtime.container.plan import Plan
from cube.cubelet.runtime.container.record import Record, Records, start_time
from cube.cubelet.runtime.container.seats import Seat, SeatPool, layer_name
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.volume import Volume
from cube.model.errors import CubeError, HostError, SandboxNotFound, Unsupported
from cube.model.resources import Resources, ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.netagent.firewall import Firewall
from cube.netagent.links import LinkPool
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: How an image is shown: under the sandbox's own ids, no devices, no set-uid.
_SHOWN = MountAttr.IDMAP | MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV


@dataclass(slots=True)
class ContainerInstance:
    """One running or paused container."""

    sandbox_id: str
    address: str
    envd: LocalGuest
    seat: Seat
    guest: ContainerGuest

    async def died(self) -> None:
        """Return when its first process is gone."""
        await self.guest.closed.wait()


class ContainerRuntime:
    """See :class:`cube.cubelet.runtime.base.Runtime`."""

    name = "container"
    capabilities = Capabilities(
        isolation="container",
        pause=True,
        pause_frees_memory=False,
        filesystem_snapshot=False,
        memory_snapshot=False,
    )

    def __init__(self, settings: Settings, images: ImageStore) -> None:
        self._run_dir = settings.run_dir
        self._images = images
        self._volume = Volume(settings)
        self._firewall = Firewall(settings)
        self._links = LinkPool(settings)
        self._cgroups = CgroupManager(settings, detect())
        self._launcher = Launcher()
        self._attachments = Attachments(settings, self._launcher)
        self._seats = SeatPool(settings, self._links, self._cgroups, self._volume, self._launcher)
        self._records = Records(settings.run_dir / "sandboxes")
        self._instances: dict[str, ContainerInstance] = {}
        self._sudo_users: dict[str, tuple[int, ...]] = {}
        self._program = settings.run_dir / "cube-init"
        self._id_base = settings.id_base

    # -- life of the runtime -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make ready: program, volume, firewall, cgroups, launcher, pools. Seats that nobody remembers are cleared."""
        await asyncio.to_thread(self._prepare)
        await self._firewall.install()
        await self._launcher.start(self._program)
        await self._links.start()
        await self._clear_forgotten_seats()
        await self._seats.start()

    def _prepare(self) -> None:
        raise_limits()
        rootfs.prepare_stage(self._run_dir / "stage")
        self._records.prepare()
        fresh = self._program.with_suffix(".new")
        shutil.copyfile(find_cube_init(), fresh)
        fresh.chmod(0o755)
        fresh.replace(self._program)
        self._volume.open()
        self._cgroups.prepare()

    async def close(self) -> None:
        """Let go of everything but the running sandboxes; a later start finds them again."""
        for instance in self._instances.values():
            await instance.guest.close()
        await self._seats.close()
        await self._links.close(remove=False)
        await self._launcher.close()

    async def remove(self) -> None:
        """End every sandbox and remove everything of this instance from the machine but the templates."""
        for sandbox_id in await self.leftovers():
            await self.destroy(sandbox_id)
        await self._seats.close()
        for name in self._volume.names():
            await asyncio.to_thread(self._volume.remove, name)
        await self._cgroups.close(remove=True)
        await self._links.close(remove=True)
        await self._launcher.close()
        await self._firewall.remove()
        await asyncio.to_thread(self._images.unmount_all)
        await asyncio.to_thread(self._volume.discard)

    async def _clear_forgotten_seats(self) -> None:
        records = (self._records.read(name) for name in self._records.names())
        remembered = {record.seat for record in records if record is not None and record.alive}
        for name in self._cgroups.names():
            if not name.isdecimal() or int(name) not in remembered:
                await self._cgroups.destroy(name)
        for name in self._volume.names() - {layer_name(seat) for seat in remembered}:
            await asyncio.to_thread(self._volume.remove, name)
        for index in await self._links.leftovers() - remembered:
            await self._links.discard(index)

    # -- sandboxes -----------------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec) -> ContainerInstance:
        """Start a sandbox from its template; returns when its inside answers."""
        if spec.snapshot_id is not None:
            raise Unsupported("containers cannot be started from a snapshot yet")
        seat = await self._seats.acquire()
        try:
            with ExitStack() as borrowed:
                attachments = await self._attachments.of_host(spec.host_mounts, seat.id_base, borrowed)
                plan = self._plan(spec, seat, attachments, borrowed)
                launched = await self._launcher.resume(_taken(seat), plan)
            instance = await self._settle(spec, seat, launched)
        except BaseException:
            await asyncio.shield(self._undo(spec.sandbox_id, seat))
            raise
        self._instances[spec.sandbox_id] = instance
        return instance

    async def adopt(self, spec: SandboxSpec, wanted: Condition) -> Found:
        """Take over a sandbox of an earlier run of the service; raises ``SandboxNotFound`` when it is gone."""
        record = self._records.read(spec.sandbox_id)
        if record is None or not record.alive:
            raise SandboxNotFound(spec.sandbox_id)
        try:
            seat = await self._seats.adopt(record.seat, record.pid)
            # A crash may have come between a pause and its record, or the other way round.
            await (seat.cgroup.thaw() if wanted is Condition.RUNNING else seat.cgroup.freeze())
            control = self._records.connect(spec.sandbox_id)
        except (OSError, CubeError) as error:
            log.warning("sandbox.not_adopted", sandbox=spec.sandbox_id, reason=str(error))
            raise SandboxNotFound(spec.sandbox_id) from error
        instance = _instance(spec, seat, control)
        self._instances[spec.sandbox_id] = instance
        condition = Condition.RUNNING if wanted is Condition.RUNNING else Condition.PAUSED
        return Found(condition, instance)

    async def pause(self, instance: Instance, *, memory: bool) -> Instance:
        """Stop its processes where they stand; they keep their memory."""
        if not memory:
            raise Unsupported("containers cannot be stopped yet")
        await self._own(instance).seat.cgroup.freeze()
        return instance

    async def resume(self, spec: SandboxSpec, instance: Instance | None, *, memory: bool) -> Instance:
        """Let its processes go on."""
        if instance is None or not memory:
            raise Unsupported("containers cannot be stopped yet")
        own = self._own(instance)
        await own.seat.cgroup.thaw()
        await own.guest.ping()
        return instance

    async def snapshot(self, spec: SandboxSpec, instance: Instance | None, snapshot_id: str, *, memory: bool) -> None:
        """Not yet."""
        raise Unsupported("containers cannot be captured yet")

    async def rollback(self, spec: SandboxSpec, instance: Instance, snapshot_id: str) -> None:
        """Not yet."""
        raise Unsupported("containers cannot be captured yet")

    async def snapshots(self) -> set[str]:
        """There are none yet."""
        return set()

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """There are none yet."""

    async def destroy(self, sandbox_id: str) -> None:
        """End it and remove everything that belonged to it, known or left over; succeeds when there is nothing."""
        instance = self._instances.pop(sandbox_id, None)
        if instance is None:
            await self._destroy_forgotten(sandbox_id)
            return
        await instance.seat.cgroup.kill()
        await instance.guest.close()
        self._records.forget(sandbox_id)
        self._seats.leave(instance.seat)

    async def stats(self, instance: Instance) -> ResourceUsage:
        """What it uses now, as the kernel counts."""
        own = self._own(instance)
        used = own.seat.cgroup.usage()
        disk = await asyncio.to_thread(self._volume.usage, own.seat.layer_name)
        return ResourceUsage(used.cpu_seconds, used.memory_bytes, used.memory_cache_bytes, disk, used.pids)

    async def leftovers(self) -> set[str]:
        """Ids of sandboxes that are written down; what has no record is cleared by :meth:`start`."""
        return self._records.names()

    # -- inside --------------------------------------------------------------------------------------------------

    def _own(self, instance: Instance) -> ContainerInstance:
        if not isinstance(instance, ContainerInstance):
            raise HostError(f"sandbox {instance.sandbox_id!r} belongs to another runtime")
        return instance

    def _plan(self, spec: SandboxSpec, seat: Seat, attachments: tuple[Attachment, ...], borrowed: ExitStack) -> Plan:
        """Everything that is done on the host before the launch. Descriptors live as long as ``borrowed``.

        Half a millisecond of system calls that do not wait for a disk, so it stays on the loop: a thread took twice as
        long. The first sandbox of a template also mounts the image.
        """
        seat.cgroup.limit(spec.resources)
        listener = borrowed.enter_context(self._records.listen(spec.sandbox_id))
        image = self._images.mount(spec.template)
        if spec.resources.disk_mb != Resources().disk_mb:
            self._volume.limit(seat.layer_name, spec.resources.disk_mb)
        namespace = _user_namespace(seat)
        sudo_uids = self._sudo_uids(spec, image)
        place = rootfs.Place(
            stage=self._run_dir / "stage",
            image=borrowed.enter_context(_shown(image, namespace)),
            layer=self._volume.existing(seat.layer_name),
            id_base=seat.id_base,
            hostname=spec.sandbox_id,
            address=str(seat.link.address),
            attachments=attachments,
            sudo=self._program if sudo_uids else None,
        )
        plan = Plan(listener.fileno(), sudo_uids)
        plan.add(*rootfs.file_system(place), *rootfs.rights(namespace, spec.resources))
        return plan

    def _sudo_uids(self, spec: SandboxSpec, image: Path) -> tuple[int, ...]:
        template = spec.template
        if template.template_id not in self._sudo_users:
            self._sudo_users[template.template_id] = users.user_ids(image, template.config.sudo_users)
        return self._sudo_users[template.template_id]

    async def _settle(self, spec: SandboxSpec, seat: Seat, launched: Launched) -> ContainerInstance:
        """Write down who runs there, and connect."""
        os.close(launched.pidfd)
        try:
            record = Record(seat.index, launched.pid, _began(launched.pid))
            # Two system calls on the loop cost less than the way to a thread and back.
            self._records.write(spec.sandbox_id, record)
        except BaseException:
            launched.control.close()
            raise
        return _instance(spec, seat, launched.control)

    async def _undo(self, sandbox_id: str, seat: Seat) -> None:
        """Remove what a failed or cancelled create has made; what cannot be removed now is a leftover for later."""
        try:
            await seat.cgroup.kill()
        except CubeError as error:
            log.warning("sandbox.undo_failed", sandbox=sandbox_id, reason=error.message)
        finally:
            self._records.forget(sandbox_id)
            self._seats.leave(seat)

    async def _destroy_forgotten(self, sandbox_id: str) -> None:
        record = self._records.read(sandbox_id)
        if record is not None and record.alive:
            await self._cgroups.destroy(str(record.seat))
            await self._links.discard(record.seat)
            await asyncio.to_thread(self._volume.remove, layer_name(record.seat))
        self._records.forget(sandbox_id)


def _instance(spec: SandboxSpec, seat: Seat, control: socket.socket) -> ContainerInstance:
    guest = ContainerGuest(control, spec.sandbox_id)
    return ContainerInstance(spec.sandbox_id, str(seat.link.address), LocalGuest(guest), seat, guest)


def _taken(seat: Seat) -> Launched:
    """The seat's parked process, which is the sandbox's first from now on."""
    parked, seat.parked = seat.parked, None
    if parked is None:
        raise HostError(f"seat {seat.index} has no process that waits for a sandbox")
    return parked


def _began(pid: int) -> int:
    began = start_time(pid)
    if began is None:
        raise HostError("the sandbox's first process ended at once")
    return began


def _user_namespace(seat: Seat) -> int:
    if seat.user_namespace is None:
        raise HostError(f"seat {seat.index} was taken over from an earlier run and cannot be used for a new sandbox")
    return seat.user_namespace


@contextmanager
def _shown(image: Path, user_namespace: int) -> Iterator[int]:
    """A detached copy of an image's mount that shows its files under the ids of a user namespace."""
    with _closing(syscalls.open_tree(str(image))) as tree:
        syscalls.mount_setattr(tree, _SHOWN, userns=user_namespace)
        yield tree


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
