"""The running service as a process: its lock, its number, starting it in the background, ending it."""

from __future__ import annotations

import fcntl
import http
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cube.model.errors import Conflict, HostError
from cube.settings import Settings

#: Seconds for the service to answer after its start, and to end after SIGTERM.
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


def pid_file(settings: Settings) -> Path:
    """Holds the service's process id and is locked as long as it runs."""
    return settings.run_dir / "cube.pid"


def log_file(settings: Settings) -> Path:
    """Where a detached service writes its log."""
    return settings.state_dir / "log" / "cube.log"


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the instance's lock; raises ``Conflict`` when another process has it."""
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    with pid_file(settings).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"instance {settings.instance!r} is running already; `cube down` ends it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        pid_file(settings).unlink(missing_ok=True)


def running_pid(settings: Settings) -> int | None:
    """Process id of the running service, ``None`` when none runs (a file left over from a crash is not believed)."""
    try:
        with pid_file(settings).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                # The open file: one that ends removes its name at any moment.
                return int(file.read() or 0) or None
    except FileNotFoundError:
        return None
    return None


def start_detached(settings: Settings) -> int:
    """Start the service in the background and return its process id once it answers.

    Raises ``HostError`` with the end of its log when it ends instead.
    """
    log = log_file(settings)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    with log.open("ab") as output:
        begun = output.tell()
        service = subprocess.Popen(
            [sys.executable, "-m", "cube.cli.main", "up"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, **_environment(settings)},
        )
    deadline = time.monotonic() + START_TIMEOUT
    while not answers(settings):
        if service.poll() is not None or time.monotonic() > deadline:
            service.kill()
            raise HostError(f"the service did not start; the end of {log}:\n{_tail(log, begun)}")
        time.sleep(0.05)
    return service.pid


def _environment(settings: Settings) -> dict[str, str]:
    """The settings as the variables that the new process reads."""
    return {f"CUBE_{name.upper()}": str(value) for name, value in settings.model_dump().items()}


def _tail(log: Path, begun: int, lines: int = 15) -> str:
    with log.open("rb") as file:
        file.seek(begun)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def answers(settings: Settings) -> bool:
    """Whether the public port answers ``/health``."""
    connection = http.client.HTTPConnection(settings.public_address, settings.port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(settings: Settings) -> bool:
    """End the service and wait until it is gone; False when none ran. Its sandboxes live on."""
    pid = running_pid(settings)
    if pid is None:
        return False
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not _ended(settings, STOP_TIMEOUT):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            _ended(settings, STOP_TIMEOUT)
    finally:
        os.close(handle)
    return True


def _ended(settings: Settings, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while running_pid(settings) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
