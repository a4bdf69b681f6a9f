"""What keeps a template from being removed: snapshots and stopped sandboxes, which can only be started over its image.

A claim is an empty file ``<state_dir>/claims/<template_id>/<holder>``, so that `cube template delete`, a process of its
own, sees it while the service runs and while it does not. It is made before what needs the template, and taken back
after that is gone: a crash in between leaves a claim too many, which the next start removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator

from cube.model.errors import TemplateNotFound
from cube.settings import Settings


class Claims:
    """The claims of one node. Calls block for some microseconds."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.state_dir / "claims"
        self._templates = settings.templates_dir

    def make(self, template_id: str, holder: str) -> None:
        """Let ``holder``, the id of a snapshot or sandbox, need a template; raises ``TemplateNotFound``."""
        with self.lock():
            if not (self._templates / template_id).is_dir():
                raise TemplateNotFound(template_id)
            place = self._directory / template_id
            place.mkdir(exist_ok=True, mode=0o700)
            (place / holder).touch(mode=0o600)

    def release(self, holder: str) -> None:
        """Take all claims of ``holder`` back; succeeds when there is none."""
        for claim in self._directory.glob(f"*/{holder}"):
            claim.unlink(missing_ok=True)

    def holders(self, template_id: str) -> list[str]:
        """Who needs a template."""
        try:
            return sorted(os.listdir(self._directory / template_id))
        except FileNotFoundError:
            return []

    def keep_only(self, holders: Collection[str]) -> None:
        """Take back the claims of everybody else."""
        for claim in self._directory.glob("*/*"):
            if claim.name not in holders:
                claim.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """While the block runs nobody makes a claim: what is not needed stays so."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
