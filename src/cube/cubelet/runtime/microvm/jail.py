"""The place that a virtual machine's process is locked into, as launch steps.

QEMU emulates devices for a guest that may be hostile, so what has taken QEMU over must find nothing: its root is a
read-only tree of its own program and firmware, its network namespace is empty, its ids belong to no other machine, it
has no capability, and what belongs to its machine came as descriptors. Its own filter and ours stand on each other.
"""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cube.cubelet.runtime.container import steps
from cube.cubelet.runtime.container.seccomp.bpf import filter_bytes
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.microvm import command

_READ_ONLY: Final = MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV
_DATA: Final = _READ_ONLY | MountAttr.NOEXEC
#: Major and minor number of /dev/kvm.
KVM_DEVICE: Final = (10, 232)
_OPEN_FILES: Final = 1024
#: CAP_SETGID and CAP_SETUID, over the ids of its own seat: each fork becomes another of them, and loses both.
_OF_ZYGOTES: Final = 1 << 6 | 1 << 7


@dataclass(frozen=True, slots=True)
class Jail:
    """What the process of one machine sees."""

    #: Empty directory of the host that every start mounts over, in its own mount namespace.
    stage: Path
    #: :attr:`~cube.cubelet.runtime.microvm.emulator.Emulator.tree`.
    tree: Path
    #: The memory file.
    memory: Path
    #: Descriptor of the machine's user namespace; host id of the process.
    user_namespace: int
    uid: int
    kvm: bool
    #: Kernel and initramfs, for a cold boot.
    boot: tuple[Path, Path] | None = None
    #: Whether it is to be forked (:mod:`cube.cubelet.runtime.microvm.zygote`).
    zygote: bool = False

    def steps(self) -> Iterator[Step]:
        """From a clone in its cgroup to a process that has nothing left but to execute QEMU."""
        if self.zygote:
            yield steps.SharePids()
        yield steps.NewNet()
        yield steps.NewCgroupNamespace()
        yield steps.Hostname("vm")
        yield steps.Staging(str(self.stage))
        yield steps.Bind(str(self.tree), "/", _READ_ONLY)
        # Again: what is there now is the tree.
        yield steps.Staging(str(self.stage))
        yield steps.Bind(str(self.memory), command.MEMORY, _DATA)
        if self.boot is not None:
            for source, target in zip(self.boot, (command.KERNEL, command.INITRAMFS), strict=True):
                yield steps.Bind(str(source), target, _DATA)
        if self.kvm:
            yield from self._kvm()
        yield steps.Pivot()
        yield from self._rights()

    def _kvm(self) -> Iterator[Step]:
        options = (("mode", "755"), ("size", "4k"), ("nr_inodes", "4"))
        yield steps.Mount("tmpfs", "/dev", MountAttr.NOSUID | MountAttr.NOEXEC, options)
        yield steps.MakeNode("/dev/kvm", stat.S_IFCHR | 0o600, *KVM_DEVICE, self.uid, self.uid)

    def _rights(self) -> Iterator[Step]:
        yield steps.ResourceLimit(resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES)
        yield steps.ResourceLimit(resource.RLIMIT_CORE, 0, 0)
        yield steps.EnterUser(self.user_namespace)
        yield steps.CapabilitySet(_OF_ZYGOTES if self.zygote else 0)
        yield steps.NoNewPrivs()
        yield steps.Seccomp(filter_bytes())
