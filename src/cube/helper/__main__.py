"""``python -m cube.helper FD``: carry out calls that come over a socket, one after the other, until its end."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from cube.helper.wire import Outcome, close_all, receive, send


def main() -> None:
    """Serve."""
    # A terminal's Ctrl-C goes to all processes in it; this one ends with the service.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as sock, suppress(BrokenPipeError, ConnectionResetError):
        while (call := receive(sock)) is not None:
            _answer(sock, *call[0])


def _answer(sock: socket.socket, function: Any, arguments: tuple[Any, ...]) -> None:
    fds: list[int] = []
    try:
        value, fds = function(*arguments)
        send(sock, Outcome(value), fds)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, whoever has called gets it
        send(sock, Outcome(error=error))
    finally:
        close_all(fds)


if __name__ == "__main__":
    main()
