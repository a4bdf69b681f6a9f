"""Capture of everything that is written to descriptors 1 and 2, by Python, C code or child processes.

``sys.stdout`` and ``sys.stderr`` write straight to those descriptors without a buffer (as ``python -u`` does), so what
Python and its children print stays in order, also across ``fork``. A thread carries the text to the service while a
cell runs; :meth:`Capture.drain` carries the rest before a result is shown and before a cell is reported done.
"""

from __future__ import annotations

import codecs
import fcntl
import io
import os
import select
import sys
import threading
import time
from typing import TextIO

from .channel import Channel, take_private

#: Time to gather small writes into one event, in seconds.
GATHER_SECONDS = 0.01
#: Most text of one event, in bytes; JSON may make it six times as long.
CHUNK = 64 * 1024

_PIPE_SIZE = 1024 * 1024


class Pipe:
    """The captured end of one descriptor, as text."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        read_end, write_end = os.pipe()
        _enlarge(read_end)
        os.dup2(write_end, number, inheritable=True)
        os.close(write_end)
        self.fd = take_private(read_end)
        os.set_blocking(self.fd, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str | None:
        """Some text, ``None`` when there is nothing to read now."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return None
        return self._decoder.decode(data)

    def rest(self) -> str:
        """What an incomplete character at the end of the output decodes to."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class Capture:
    """Both pipes, the thread that empties them and the ``sys`` streams that feed them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._pipes: tuple[Pipe, ...] = (Pipe("stdout", 1), Pipe("stderr", 2))
        sys.stdout = _text_writer(1)
        sys.stderr = _text_writer(2)
        os.register_at_fork(after_in_child=self._forget)

    def start(self) -> None:
        """Start carrying text in the background."""
        threading.Thread(target=self._carry, name="cube-capture", daemon=True).start()

    def drain(self) -> None:
        """Send everything that has been written so far. Forked children leave that to the kernel."""
        if self._channel.is_ours:
            with self._channel.uninterrupted(), self._lock:
                self._send_available()

    def finish(self) -> None:
        """Drain at the end of a cell; an incomplete character is not kept for the next one."""
        self.drain()
        for pipe in self._pipes:
            self._send(pipe, pipe.rest())

    def _carry(self) -> None:
        poll = select.poll()
        for pipe in self._pipes:
            poll.register(pipe.fd, select.POLLIN)
        while True:
            poll.poll()
            time.sleep(GATHER_SECONDS)
            with self._lock:
                self._send_available()

    def _send_available(self) -> None:
        """Send at most what the pipes can hold at once: a child that never stops writing must not hold up the cell."""
        for pipe in self._pipes:
            for _ in range(_PIPE_SIZE // CHUNK):
                text = pipe.read()
                if text is None:
                    break
                self._send(pipe, text)

    def _send(self, pipe: Pipe, text: str) -> None:
        if text:
            self._channel.send({"type": pipe.name, "text": text})

    def _forget(self) -> None:
        self._lock = threading.Lock()
        for pipe in self._pipes:
            os.close(pipe.fd)
        self._pipes = ()


def _text_writer(number: int) -> TextIO:
    raw = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def _enlarge(pipe: int) -> None:
    """A bigger pipe lets a chatty cell run on while its text is being sent; the kernel may refuse, which is no harm."""
    try:
        fcntl.fcntl(pipe, 1031, _PIPE_SIZE)  # F_SETPIPE_SZ, which Python names only from 3.10 on
    except OSError:
        return
