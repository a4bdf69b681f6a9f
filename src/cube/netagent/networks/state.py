"""The network of one sandbox that was asked for over RPC, and its file, which outlives the agent."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson

from cube.model.errors import HostError, InvalidInput
from cube.model.network import NetworkConfig
from cube.model.network_wire import restored, stored
from cube.netagent.factory import AnyLink

_log = logging.getLogger(__name__)

#: They are names of files too.
_SANDBOX_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LONGEST_KEY: Final = 128
#: Bytes; a policy has at most two lists of 8,192 entries.
_LONGEST_FILE: Final = 4 << 20


class Kind(StrEnum):
    """What is at the sandbox's end of a link."""

    #: A descriptor for a virtual machine's process.
    TAP = "tap"
    #: A network namespace for a container.
    VETH = "veth"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks for."""

    sandbox_id: str
    kind: Kind = Kind.TAP
    config: NetworkConfig = field(default_factory=NetworkConfig)
    idempotency_key: str = ""

    def checked(self) -> Wanted:
        """The same; raises ``InvalidInput`` that names the field."""
        require_sandbox_id(self.sandbox_id)
        if len(self.idempotency_key) > _LONGEST_KEY:
            raise InvalidInput(f"idempotency_key has at most {_LONGEST_KEY} characters", field="idempotency_key")
        if self.config.transforms or any(rule.action.inject for rule in self.config.rules):
            raise InvalidInput(
                "rules without `inject`, please: credentials would lie in the agent's state files; sandboxes of the "
                "service's API may have them",
                field="cube_network_config.rules",
            )
        self.config.checked()
        return self


def require_sandbox_id(sandbox_id: str) -> str:
    """The same; raises ``InvalidInput`` when it can be no sandbox's."""
    if not _SANDBOX_ID.fullmatch(sandbox_id):
        raise InvalidInput("sandbox_id must be 1 to 64 letters, digits, `-` and `_`", field="sandbox_id")
    return sandbox_id


@dataclass(slots=True)
class Network:
    """One network that is kept until it is released."""

    wanted: Wanted
    #: Number of the link, and name of the host's interface.
    index: int
    interface: str
    #: ``None`` while there is none.
    link: AnyLink | None
    #: Number of the host's interface.
    interface_index: int = 0
    #: Why the network was given up; empty otherwise.
    reason: str = ""
    #: How often in turn it could not be made again.
    failures: int = 0
    #: Its descriptor was given to somebody, who may still have it.
    handed_out: bool = False
    #: The pool keeps the number of a link that is not there.
    reserved: bool = False

    @property
    def quarantined(self) -> bool:
        """Whether it was given up: it is closed until it is released."""
        return bool(self.reason)


class StateFiles:
    """One file for each network in a directory of root's alone. Everything blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> None:
        """Make the directory."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)

    def write(self, network: Network) -> None:
        """Write one down, in the place of what there was; raises ``HostError``."""
        wanted = network.wanted
        document = {
            "sandbox_id": wanted.sandbox_id,
            "kind": wanted.kind,
            "idempotency_key": wanted.idempotency_key,
            "config": stored(wanted.config),
            "index": network.index,
            "interface": network.interface,
            "reason": network.reason,
            "handed_out": network.handed_out,
        }
        path = self._path(wanted.sandbox_id)
        fresh = path.with_suffix(".new")
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(handle, "wb") as file:
                file.write(orjson.dumps(document))
            fresh.replace(path)
        except OSError as error:
            raise HostError(f"the network of {wanted.sandbox_id} cannot be written down: {error.strerror}") from error

    def remove(self, sandbox_id: str) -> None:
        """Remove one; succeeds when there is none."""
        self._path(sandbox_id).unlink(missing_ok=True)

    def load(self) -> list[Network]:
        """All of them, without their links. What cannot be read is put aside under another name, and logged."""
        return list(self._load())

    def _load(self) -> Iterator[Network]:
        for path in sorted(self._directory.glob("*.json")):
            try:
                yield _parsed(path)
            except (OSError, ValueError, TypeError, KeyError, InvalidInput) as error:
                _log.error("the state file %s is damaged and put aside: %s", path, error)
                path.rename(path.with_suffix(".damaged"))

    def _path(self, sandbox_id: str) -> Path:
        return self._directory / f"{sandbox_id}.json"


def _parsed(path: Path) -> Network:
    if path.stat().st_size > _LONGEST_FILE:
        raise ValueError("it is too long")
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    wanted = Wanted(
        require_sandbox_id(document["sandbox_id"]),
        Kind(document["kind"]),
        restored(document["config"]),
        str(document["idempotency_key"]),
    )
    if wanted.sandbox_id != path.stem:
        raise ValueError(f"it speaks of {wanted.sandbox_id}")
    index, interface, reason = int(document["index"]), str(document["interface"]), str(document["reason"])
    return Network(wanted, index, interface, None, reason=reason, handed_out=bool(document["handed_out"]))
