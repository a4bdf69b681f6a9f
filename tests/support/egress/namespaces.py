"""Network namespaces that sockets and programs of a test may be made in."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

_libc = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x4000_0000
T = TypeVar("T")


def _enter(fd: int) -> None:
    if _libc.setns(fd, _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(function: Callable[[], T]) -> T:
    """Run it in a thread that ends: its namespace is nobody's any more."""
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:  # noqa: BLE001  raised again below
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def in_namespace(fd: int, function: Callable[[], T]) -> T:
    """Call it in the namespace of a descriptor; sockets that it makes stay there for ever."""

    def inside() -> T:
        _enter(fd)
        return function()

    return _in_thread(inside)


class Namespace:
    """A network namespace that lives until it is closed."""

    def __init__(self) -> None:
        def make() -> int:
            if _libc.unshare(_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            return _own()

        self.fd = _in_thread(make)
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        os.close(self.fd)

    def call(self, function: Callable[[], T]) -> T:
        """Call it inside; sockets that it makes stay there for ever."""

        return in_namespace(self.fd, function)

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        options = {"check": True, "capture_output": True, "text": True, "timeout": 60, **options}
        return subprocess.run(command, preexec_fn=lambda: _enter(self.fd), **options)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a program inside."""
        return subprocess.Popen(command, preexec_fn=lambda: _enter(self.fd), text=True, **options)

    def ip(self, *commands: str) -> None:
        """Carry out commands of ``ip``."""
        self.run("ip", "-batch", "-", input="\n".join(commands) + "\n")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread, and what it starts, inside."""
        before = _own()
        _enter(self.fd)
        try:
            yield
        finally:
            _enter(before)
            os.close(before)


def connect(one: Namespace, other: Namespace, names: Sequence[str]) -> None:
    """A cable between two namespaces; its ends have these names and are up."""
    here, there = names
    one.ip(
        f"link add {here} type veth peer name {there} netns /proc/{os.getpid()}/fd/{other.fd}", f"link set {here} up"
    )
    other.ip(f"link set {there} up")
