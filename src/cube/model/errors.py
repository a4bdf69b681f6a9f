"""Everything that can go wrong and that a caller can act on, as one tree of exceptions.

``cube.api.errors`` is the only place that turns these into HTTP answers and ``cube.envd.errors`` the only one
that turns them into Connect errors. The message is a sentence for the user: what is wrong and what to do.

    CubeError
    ├── InvalidInput            400  the request cannot be carried out as it stands (``field`` names the culprit)
    ├── Unauthenticated         401
    ├── PermissionDenied        403
    ├── NotFound                404
    │   ├── SandboxNotFound
    │   ├── TemplateNotFound
    │   ├── SnapshotNotFound
    │   ├── VolumeNotFound
    │   └── SecretNotFound
    ├── Conflict                409  another operation is under way, or the state does not allow this one
    │   └── SnapshotUnfit            captured memory fits into another machine than this one
    ├── KeyReused               422  an idempotency key came with another request than the first time
    ├── Unsupported             501  this runtime or machine cannot do it, by its capability record
    ├── LimitExceeded           429  try again after ``retry_after`` seconds
    ├── Unavailable             503  try again after ``retry_after`` seconds
    │   └── SandboxNotRunning        the sandbox is paused, being killed, or has died
    ├── StorageFull             507  the writable layer or the node has no room left
    └── HostError               500  the machine refused something it should be able to do
        ├── SandboxStopped           the sandbox has lost its processes over it; its files are kept
        └── SnapshotDamaged          captured files are not what was written
"""

from __future__ import annotations


class CubeError(Exception):
    """Root of the tree. ``code`` is the HTTP status that fits the failure."""

    code = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(CubeError):
    """The request is malformed or contradicts itself; ``field`` names the offending field when there is one."""

    code = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Unauthenticated(CubeError):
    """No credential, or a wrong one."""

    code = 401


class PermissionDenied(CubeError):
    """The credential or the user is known but may not do this."""

    code = 403


class NotFound(CubeError):
    """No such thing."""

    code = 404


class SandboxNotFound(NotFound):
    """No sandbox has this id, or it has ended."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"sandbox {sandbox_id!r} was not found")
        self.sandbox_id = sandbox_id


class TemplateNotFound(NotFound):
    """No template has this id or name."""

    def __init__(self, template: str) -> None:
        super().__init__(f"template {template!r} was not found; `cube template list` shows what exists")
        self.template = template


class SnapshotNotFound(NotFound):
    """No snapshot has this id."""

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(f"snapshot {snapshot_id!r} was not found")
        self.snapshot_id = snapshot_id


class VolumeNotFound(NotFound):
    """No volume has this id or name."""

    def __init__(self, volume: str) -> None:
        super().__init__(f"volume {volume!r} was not found; `cube volume list` shows what exists")
        self.volume = volume


class SecretNotFound(NotFound):
    """No secret has this id or name."""

    def __init__(self, secret: str) -> None:
        super().__init__(f"secret {secret!r} was not found")
        self.secret = secret


class Conflict(CubeError):
    """Another operation holds the object, or its state does not allow this operation."""

    code = 409


class SnapshotUnfit(Conflict):
    """Memory was captured by another emulator, processor or kind of machine; the message names both."""


class KeyReused(CubeError):
    """The idempotency key was used before, for a request that asked for something else."""

    code = 422


class Unsupported(CubeError):
    """The runtime's capability record says it cannot do this."""

    code = 501


class LimitExceeded(CubeError):
    """A limit of the caller or the node is reached; ``retry_after`` is in seconds."""

    code = 429

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(CubeError):
    """Cannot be done right now; ``retry_after`` is in seconds, ``None`` when a retry will not help."""

    code = 503

    def __init__(self, message: str, *, retry_after: int | None = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SandboxNotRunning(Unavailable):
    """The sandbox exists but does not answer: paused, being killed, or dead."""

    def __init__(self, sandbox_id: str, state: str) -> None:
        super().__init__(f"sandbox {sandbox_id!r} is {state}, not running", retry_after=None)
        self.sandbox_id = sandbox_id
        self.state = state


class StorageFull(CubeError):
    """No room left on the writable layer of a sandbox or on the node."""

    code = 507


class HostError(CubeError):
    """The machine refused a step that should work; the message names the step and the kernel's reason."""

    code = 500


class SandboxStopped(HostError):
    """An operation failed after it had ended the sandbox's processes: its files are kept, and it can be resumed.

    A node without room, as ``cause``, is no fault of the service: the status is that of :class:`StorageFull`.
    """

    def __init__(self, message: str, *, cause: CubeError | None = None) -> None:
        super().__init__(message)
        if cause is not None and cause.code == StorageFull.code:
            self.code = StorageFull.code


class SnapshotDamaged(HostError):
    """A file of a snapshot or paused sandbox is missing, cut off or changed; nothing was restored from it."""
