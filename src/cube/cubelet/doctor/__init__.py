"""``cube doctor``: tries out what the machine can do, instead of believing what it says, and tells what follows.

Every probe runs in a child process with namespaces of its own, so nothing it makes outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cube.cubelet.doctor import kernel, kvm, network, storage
from cube.cubelet.doctor.check import Check

#: In the order in which they are shown.
PROBES: tuple[tuple[str, Callable[[], Check]], ...] = (
    ("root", kernel.root),
    ("kernel", kernel.version),
    ("namespaces", kernel.namespaces),
    ("user namespaces", kernel.user_namespaces),
    ("seccomp", kernel.seccomp),
    ("cgroups", kernel.cgroups),
    ("overlayfs", storage.overlayfs),
    ("erofs", storage.erofs),
    ("id-mapped mounts", storage.id_mapped_mounts),
    ("disk quotas", storage.quotas),
    ("run directory", storage.run_directory),
    ("nftables", network.nftables),
    ("TPROXY", network.tproxy),
    ("envoy", network.envoy),
    ("KVM", kvm.boots_a_guest),
)


def examine() -> Iterator[tuple[str, Check]]:
    """Run all probes, one after the other, and yield each result as it comes."""
    for name, probe in PROBES:
        yield name, probe()
