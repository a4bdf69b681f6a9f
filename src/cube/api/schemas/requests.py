"""Bodies that clients send about sandboxes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from cube.api.schemas.base import RequestBody
from cube.api.schemas.limits import WHOLE, Environment, Metadata, Seconds
from cube.api.schemas.network import DnsConfig, Network
from cube.model.ids import TEMPLATE_REF
from cube.model.mounts import MOST


class AutoResume(RequestBody):
    """Whether traffic wakes a paused sandbox."""

    enabled: bool


class Lifecycle(RequestBody):
    """What ends or wakes a sandbox, as CubeSandbox's client sends it."""

    on_timeout: Literal["kill", "pause"] = "kill"
    auto_resume: bool = False


class VolumeMount(RequestBody):
    """A volume that a sandbox has."""

    name: Annotated[str, Field(max_length=128, description="Name or id of the volume.", examples=["data"])]
    path: Annotated[
        str,
        Field(
            max_length=4095,
            pattern=r"^/[^\x00]*$",
            description="Absolute path in the sandbox; made when it is missing.",
            examples=["/mnt/data"],
        ),
    ]
    read_only: Annotated[bool, Field(description="The sandbox may not change it; others may.")] = False


class NewSandbox(RequestBody):
    """A sandbox to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"templateID": "base", "timeout": 300},
                {
                    "templateID": "code-interpreter-v1",
                    "timeout": 60,
                    "autoPause": True,
                    "autoResume": {"enabled": True},
                    "metadata": {"user": "alice"},
                    "envVars": {"LANG": "C.UTF-8"},
                },
            ]
        }
    )

    template_id: Annotated[
        str,
        Field(
            max_length=400,
            description="Id or name of a template or a snapshot: `base`, `team/base:v2`, `snap-…`.",
            json_schema_extra={"pattern": f"^{TEMPLATE_REF.pattern}$"},
        ),
    ]
    timeout: Annotated[Seconds | None, Field(description="Seconds until it is ended or paused; -1 means never.")] = None
    auto_pause: Annotated[bool, Field(description="Pause instead of ending when the time is up.")] = False
    auto_pause_memory: Annotated[bool, Field(description="Whether an automatic pause keeps memory.")] = True
    auto_resume: AutoResume | None = None
    lifecycle: Lifecycle | None = None
    secure: Annotated[bool, Field(description="Accepted and ignored: every sandbox is secured by a token.")] = True
    allow_internet_access: Annotated[
        bool | None,
        Field(alias="allow_internet_access", description="`false` closes everything that nothing else allows."),
    ] = None
    network: Annotated[
        Network | None,
        Field(
            validation_alias=AliasChoices(
                "network",
                "cube_network_config",
                "cubeNetworkConfig",
                "cubevs_context",
                "cubevsContext",
                "CubeVSContext",
            ),
            description="What it may reach and who may reach it.",
        ),
    ] = None
    dns_config: Annotated[DnsConfig | None, Field(validation_alias=AliasChoices("dns_config", "dnsConfig"))] = None
    metadata: Metadata | None = None
    env_vars: Environment | None = None
    envs: Annotated[Environment | None, Field(description="Another name of `envVars`.")] = None
    distribution_scope: Annotated[
        list[Annotated[str, Field(max_length=255)]] | None,
        Field(max_length=64, description="Names or addresses of the nodes that it may run on."),
    ] = None
    mcp: Annotated[dict[str, Any] | None, Field(description="Accepted: the client starts the gateway itself.")] = None
    iam: dict[str, Any] | None = None
    volume_mounts: Annotated[
        list[VolumeMount] | None, Field(max_length=MOST, description="Volumes that exist, none inside another.")
    ] = None


class SetTimeout(RequestBody):
    """A new timeout."""

    timeout: Annotated[
        Seconds, Field(description="Seconds from now; 0 means that the time is up, -1 never.", examples=[300])
    ]


class Refresh(RequestBody):
    """A sandbox to keep."""

    duration: Annotated[int, Field(ge=0, le=3600, description="Seconds from now that it lives at least."), WHOLE] = 15


class Connect(RequestBody):
    """A sandbox to use."""

    timeout: Annotated[Seconds | None, Field(description="Seconds from now that it lives at least.")] = None
    memory: Annotated[bool, Field(description="`false` boots a paused sandbox from its disk.")] = True


class Resume(RequestBody):
    """A paused sandbox to let go on."""

    timeout: Annotated[Seconds | None, Field(description="Seconds from now until its time is up.")] = None
    auto_pause: Annotated[bool | None, Field(description="Pause (or end) it when the time is up.")] = None
    memory: Annotated[bool, Field(description="`false` boots it from its disk.")] = True


class Pause(RequestBody):
    """A sandbox to pause."""

    memory: Annotated[bool, Field(description="`false` keeps only the files.")] = True
    require_healthy_guest: Annotated[bool, Field(description="Accepted: a pause needs no help from inside.")] = False


class TakeSnapshot(RequestBody):
    """A snapshot to take."""

    name: Annotated[
        str | None,
        Field(
            max_length=400,
            description="`name` or `name:tag`. A snapshot that has it already is replaced.",
            json_schema_extra={"pattern": f"^{TEMPLATE_REF.pattern}$"},
        ),
    ] = None
    memory: Annotated[
        bool | None,
        Field(description="`false` captures the files alone. The answer says whether memory was captured."),
    ] = None


class Rollback(RequestBody):
    """What a sandbox shall be again."""

    snapshot_id: Annotated[
        str, Field(min_length=1, max_length=400, description="Id or name of a snapshot over the same template.")
    ]


class Fork(RequestBody):
    """Forks to make."""

    timeout: Annotated[Seconds | None, Field(description="Seconds until the time of the forks is up.")] = None
    count: Annotated[int, Field(ge=1, le=100, description="How many."), WHOLE] = 1
