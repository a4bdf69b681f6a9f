"""Terminals whose descriptor the host has."""

from __future__ import annotations

import fcntl
import struct
import termios

from cube.envd.guest import TerminalSize


def set_terminal_size(fd: int, size: TerminalSize) -> None:
    """Resize the terminal behind ``fd``; its foreground processes get SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.cols, 0, 0))
