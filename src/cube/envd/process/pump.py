"""A descriptor whose output is read as it comes, when there is room for it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

#: Capacity of a pipe; more cannot be there at once.
_READ_SIZE = 64 * 1024


class Pump:
    """Reads ``fd``, which it owns, and gives what it read to ``sink``; at the end of file it closes ``fd``.

    ``sink`` returns the seconds to wait before the next read: 0 to go on, ``None`` to pause until :meth:`resume`.
    ``on_end`` is called once, right before the descriptor is closed.
    """

    def __init__(self, fd: int, sink: Callable[[bytes], float | None], on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._sink = sink
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self._paused = True
        self.ended = False
        os.set_blocking(fd, False)
        self.resume()

    @property
    def paused(self) -> bool:
        """Whether it waits for :meth:`resume`."""
        return self._paused and self._timer is None and not self.ended

    def resume(self) -> None:
        """Read again after a pause."""
        if self._paused and not self.ended and self._timer is None:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stop and close the descriptor; may be called twice."""
        if self.ended:
            return
        self._pause()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.ended = True
        try:
            self._on_end()
        finally:
            os.close(self._fd)

    def redirect(self, sink: Callable[[bytes], float | None], on_end: Callable[[], None]) -> None:
        """Give what comes from now on to another sink."""
        self._sink, self._on_end = sink, on_end
        self.resume()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            # A terminal whose last user is gone answers EIO instead of end of file.
            if error.errno != errno.EIO:
                raise
            data = b""
        if data:
            self._follow(self._sink(data))
        else:
            self.close()

    def _follow(self, delay: float | None) -> None:
        if delay == 0 or self.ended:
            return
        self._pause()
        if delay is not None:
            self._timer = self._loop.call_later(delay, self._delayed)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def _delayed(self) -> None:
        self._timer = None
        self.resume()
