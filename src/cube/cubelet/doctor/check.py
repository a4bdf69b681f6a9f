"""What a probe answers, and how one is run in a child process."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a probe ended."""

    OK = "ok"
    #: Works, with something missing that the consequence names.
    LIMITED = "limited"
    #: cube cannot run containers without it.
    MISSING = "missing"
    #: Could not be found out.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one probe."""

    status: Status
    #: What was seen.
    detail: str
    #: What follows from it for the user, in words; empty when nothing does.
    consequence: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def ok(detail: str) -> Check:
    """The machine can do it."""
    return Check(Status.OK, detail)


def missing(detail: str, consequence: str) -> Check:
    """cube cannot run containers on this machine."""
    return Check(Status.MISSING, detail, consequence)


def limited(detail: str, consequence: str) -> Check:
    """cube runs, with less."""
    return Check(Status.LIMITED, detail, consequence)


def unknown(detail: str, consequence: str) -> Check:
    """Nobody knows."""
    return Check(Status.UNKNOWN, detail, consequence)


def in_child(attempt: Callable[[], str]) -> tuple[bool, str]:
    """Run ``attempt`` in a forked child: (True, what it returned) or (False, the kernel's or program's reason).

    The child may unshare and mount as it likes: its namespaces die with it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, json.dumps(_outcome(attempt)).encode()[:60000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    if not answer:
        return False, "the probe's process was killed"
    worked, text = json.loads(answer)
    return bool(worked), str(text)


def _outcome(attempt: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, attempt()
    except OSError as error:
        return False, str(error)
    except Exception:  # noqa: BLE001  the boundary of a child process: what goes wrong is its answer
        return False, traceback.format_exc(limit=2)
