"""Knobs of network namespaces, written through an instance of procfs of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cube.netagent import namespaces
from cube.netagent.sysctls import Sysctls
from support.descriptors import open_fds

pytestmark = pytest.mark.root

_KNOB = "net/ipv4/ip_unprivileged_port_start"


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with namespaces.namespace_thread("sysctls") as thread:
        yield thread


def in_new_namespaces(sysctls: Sysctls, count: int) -> list[str]:
    """What a knob is in each of several new namespaces, after it was written in all."""
    made = []
    home = namespaces.own_namespace()
    try:
        for number in range(count):
            with namespaces.new_namespace(home) as namespace:
                made.append(namespace)
                sysctls.prepare()
                sysctls.write(_KNOB, str(number))
                sysctls.close_ipv6("all")
        found = []
        for namespace in made:
            with namespaces.inside(namespace, home):
                found.append(Path("/proc/sys", _KNOB).read_text().strip())
                assert Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text() == "1\n"
        return found
    finally:
        for descriptor in (home, *made):
            os.close(descriptor)


def test_each_namespace_has_its_own(thread: ThreadPoolExecutor) -> None:
    """More of them than one instance of procfs is used for."""
    before, outside = len(open_fds()), Path("/proc/sys", _KNOB).read_text()
    sysctls = Sysctls()
    assert thread.submit(in_new_namespaces, sysctls, 70).result() == [str(number) for number in range(70)]
    assert len(open_fds()) == before + 1
    sysctls.close()
    assert len(open_fds()) == before
    assert Path("/proc/sys", _KNOB).read_text() == outside


def test_a_knob_that_is_not_there() -> None:
    sysctls = Sysctls()
    try:
        with pytest.raises(FileNotFoundError):
            sysctls.write("net/ipv4/no_such_knob", "1")
        with pytest.raises(FileNotFoundError):
            sysctls.close_ipv6("no-such-interface")
    finally:
        sysctls.close()
