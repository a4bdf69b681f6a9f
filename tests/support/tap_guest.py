"""A virtual machine as far as its network card goes: a network namespace whose packets come out of a TAP descriptor.

The namespace has a TAP interface of its own, and a process carries the frames between the two, virtio headers
included, as a hypervisor does. So a real network stack is at the other end, and it leaves sums and cutting to the host.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cube.netagent.factory import SANDBOX_MAC
from cube.netagent.tap import TapLink

_CARRIER = """
import os, select, subprocess, sys
from cube.netagent.tap import OFFLOADS, _TUNSETOFFLOAD, open_tap
import fcntl
outer, address, gateway, mac = int(sys.argv[1]), *sys.argv[2:]
import ctypes
assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0
with open('/proc/sys/net/ipv4/ping_group_range', 'w') as knob: knob.write('0 2147483647')
inner = open_tap('eth0', new=True)
fcntl.ioctl(inner, _TUNSETOFFLOAD, OFFLOADS)
for command in ('link set lo up', f'link set eth0 address {mac}', f'address add {address}/31 dev eth0',
                'link set eth0 up', f'route add default via {gateway}'):
    subprocess.run(['ip', *command.split()], check=True)
print('up', flush=True)
ways = {outer: inner, inner: outer}
poll = select.poll()
for fd in ways: poll.register(fd, select.POLLIN)
while True:
    for fd, _ in poll.poll():
        try: frame = os.read(fd, 1 << 17)
        except BlockingIOError: continue
        try: os.write(ways[fd], frame)
        except OSError: pass
"""


@contextmanager
def guest(link: TapLink) -> Iterator[tuple[int, int]]:
    """A machine on a link: its process, which has the descriptor, and a descriptor of its namespace."""
    assert link.descriptor is not None
    mac = ":".join(f"{byte:02x}" for byte in SANDBOX_MAC)
    command = [sys.executable, "-c", _CARRIER, link.descriptor, link.address, link.gateway, mac]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, text=True, pass_fds=[link.descriptor]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        namespace = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield process.pid, namespace
        finally:
            os.close(namespace)
            process.kill()
