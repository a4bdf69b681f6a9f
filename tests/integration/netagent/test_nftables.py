"""Rules are set also by a service that has thousands of descriptors open."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

#: In a process of its own: libnftables ends the one in which it gets a descriptor beyond 1,024.
CROWDED = """
import os, resource, sys
from cube.model.errors import HostError
from cube.netagent import nftables
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
assert kept[-1] > 1024
nftables.run("add table inet crowded")
assert "crowded" in nftables.run("list tables")
try:
    nftables.run("add table inet other; delete table inet missing")
except HostError as error:
    print(error)
print(nftables.run("list tables"))
"""


def test_many_descriptors_do_not_end_the_service() -> None:
    """In a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-c", CROWDED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused the rules" in done.stdout
    assert "crowded" in done.stdout
    assert "other" not in done.stdout.splitlines()[-1], "all commands or none"
