"""Templates: what a sandbox is cloned from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cube.model.network import NetworkConfig
from cube.model.resources import Resources


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an OCI image configuration that a sandbox obeys."""

    env: dict[str, str] = field(default_factory=dict)
    #: Default user of commands and file requests: a name or a numeric id, resolved inside the image.
    user: str = "root"
    #: Default working directory; empty means the home directory of the user.
    workdir: str = ""
    #: Users that may run ``sudo`` without a password: names of the image, or numbers.
    sudo_users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BakedCa:
    """The certificate of the outbound proxy in an image. Paths are absolute inside of it."""

    #: SHA-256 of the certificate in DER form, in hexadecimal.
    fingerprint: str
    #: Files that have it.
    targets_written: tuple[str, ...]
    #: The file with all certificates that programs believe.
    bundle: str
    #: A file with this one alone.
    alone: str


@dataclass(frozen=True, slots=True)
class StartCommand:
    """What runs in every new sandbox of a template before it is handed out. Both are lines for a shell."""

    #: Goes on running beside whatever the client does; empty runs nothing.
    command: str = ""
    #: Is run again and again until it ends with 0, then the sandbox is ready; empty waits for nothing.
    ready: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """A template whose read-only image is on this node, ready to be cloned."""

    template_id: str
    #: First name is the main one; all of them are accepted where a template id is.
    names: tuple[str, ...]
    #: Path of the erofs image, relative to the template's directory.
    image: str
    image_bytes: int
    #: Digest over everything that went into the image: same fingerprint, same content.
    fingerprint: str
    created_at: datetime
    config: ImageConfig = field(default_factory=ImageConfig)
    resources: Resources = field(default_factory=Resources)
    #: Whether the code interpreter (port 49999) can be offered.
    code_interpreter: bool = False
    #: Without it programs do not believe the outbound proxy, and HTTPS by egress rules fails in them.
    cube_ca: BakedCa | None = None
    #: What its sandboxes may reach, to which each of them may add; ``None`` where it says nothing. Holds no secrets.
    network: NetworkConfig | None = None
    #: ``None`` where sandboxes are ready as soon as they answer.
    start: StartCommand | None = None
