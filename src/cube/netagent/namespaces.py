"""Network namespaces: made, entered and left by one thread that is used for nothing else.

A namespace is a property of a thread. Everything here that enters one must run on a thread of :func:`namespace_thread`,
never on the event loop's, and is back in the service's own namespace before it returns.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

_CLONE_NEWNET: Final = 0x4000_0000
_THREAD_NAMESPACE: Final = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def namespace_thread(name: str) -> ThreadPoolExecutor:
    """A thread for work in namespaces; jobs are carried out one after the other."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)


def own_namespace() -> int:
    """A descriptor of the namespace that the calling thread is in; the caller closes it."""
    return os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


def process_namespace(pid: int) -> int:
    """A descriptor of the namespace that a process is in; ``OSError`` when it is gone. The caller closes it."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def inhabited() -> Iterator[int]:
    """Descriptors of all namespaces that a process is in, each once; the caller closes them."""
    seen: set[int] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            namespace = process_namespace(int(entry))
        except OSError:  # it has ended
            continue
        number = os.fstat(namespace).st_ino
        if number in seen:
            os.close(namespace)
        else:
            seen.add(number)
            yield namespace


@contextmanager
def new_namespace(home: int) -> Iterator[int]:
    """Make a namespace and stay in it for the block; yields its descriptor, which the caller closes.

    ``home`` is the namespace to go back to. The namespace lives as long as a descriptor or a process holds it.
    """
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
    try:
        yield own_namespace()
    finally:
        _enter(home)


@contextmanager
def inside(namespace: int, home: int) -> Iterator[None]:
    """Stay in a namespace for the block, then go back to ``home``."""
    _enter(namespace)
    try:
        yield
    finally:
        _enter(home)


def write_sysctl(path: str, value: str, *, proc: int | None = None) -> None:
    """Set ``/proc/sys/<path>`` of the calling thread's namespace, through the procfs whose root ``proc`` is if one is
    given; ``FileNotFoundError`` when there is no such knob."""
    knob = f"/proc/sys/{path}" if proc is None else f"sys/{path}"
    handle = os.open(knob, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(handle, value.encode())
    finally:
        os.close(handle)


def _enter(namespace: int) -> None:
    _check(_libc.setns(namespace, _CLONE_NEWNET), "enter a network namespace")


def _check(result: int, doing: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot {doing}: {os.strerror(code)}")
