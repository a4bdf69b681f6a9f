"""Settings of the service: environment variables ``CUBE_<NAME>``, or ``cube up --set NAME=value``.

Every field is documented here and in docs/settings.md; a test compares the two.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Ids in the range of one sandbox: all that an image can use.
ID_RANGE = 65536
#: The steps of :data:`cube.model.network.CONNECTION_STEPS`, which a test compares.
_CONNECTION_STEPS = (16, 64, 256, 1024, 4096, 16384)


class Settings(BaseSettings):
    """One instance of the service. Two instances on one machine differ in ``instance``, directories, ports and
    network."""

    model_config = SettingsConfigDict(env_prefix="CUBE_", extra="ignore", frozen=True)

    instance: str = Field(
        default="cube",
        pattern=r"^[a-z][a-z0-9]{0,7}$",
        description="Name of this instance; prefixes its cgroups, interfaces and nftables table.",
    )
    state_dir: Path = Field(
        default=Path("/var/lib/cube"), description="What must survive a restart: database, templates, writable layers."
    )
    run_dir: Path = Field(
        default=Path("/run/cube"), description="Sockets, locks and process ids; emptied by `cube down`."
    )
    host: str = Field(default="127.0.0.1", description="Address that the public port listens on.")
    port: int = Field(default=3000, ge=1, le=65535, description="Public port: the API and all sandbox traffic.")
    domain: str = Field(
        default="",
        description="Domain of sandbox host names; empty means `localhost:<port>`, with TLS `cube.localhost:<port>`.",
    )
    tls: str = Field(
        default="off",
        pattern="^(off|also|only)$",
        description="TLS on the public port: `off`, `also` beside plain HTTP, or `only` (plain HTTP from here alone).",
    )
    tls_certificate: str = Field(
        default="",
        description="PEM file of the certificate and its chain; empty makes one, and an authority, in `state_dir/tls`.",
    )
    tls_key: str = Field(default="", description="PEM file of the private key of `CUBE_TLS_CERTIFICATE`.")
    api_key: str = Field(
        default="",
        repr=False,
        description="The API asks for this key in `X-API-KEY`. Without it and a callback, authentication is off.",
    )
    auth_callback_url: str = Field(
        default="",
        repr=False,
        validation_alias=AliasChoices("CUBE_AUTH_CALLBACK_URL", "auth_callback_url"),
        description="URL that is asked by POST whether a credential may make a request; empty asks nobody.",
    )
    auth_cache_seconds: float = Field(
        default=5, ge=0, le=300, description="How long an answer of `CUBE_AUTH_CALLBACK_URL` is taken for granted."
    )
    rate_limit: int = Field(
        default=100,
        ge=0,
        description="API requests per second and credential when authentication is on, more get 429; 0 means no limit.",
    )
    network_cidr: str = Field(
        default="10.213.0.0/16", description="IPv4 range that sandbox links take their addresses from, two each."
    )
    dns_servers: str = Field(
        default="",
        description="IPv4 addresses, separated by commas, that sandboxes' questions for names go to; empty asks the "
        "host's own.",
    )
    dns_mode: str = Field(
        default="open",
        pattern="^(open|strict)$",
        description="Which names sandboxes are answered whose policy does not say: `open` all, `strict` allowed ones.",
    )
    sandbox_connections: int = Field(
        default=4096,
        description="Connections at a time of a sandbox whose policy does not say: 16, 64, 256, 1024, 4096 or 16384.",
    )
    sandbox_bytes_per_second: int = Field(
        default=0,
        ge=0,
        description="Bytes per second, in each direction, of a sandbox whose policy does not say; 0 means no limit.",
    )
    id_base: int = Field(
        default=0x2000_0000,
        ge=0x2_0000,
        description="First host user id of the ranges given to sandboxes, 65,536 each; one more lies below it.",
    )
    host_mount_prefixes: str = Field(
        default="",
        description="Directories of the host, separated by commas, that sandboxes may mount; empty allows none.",
    )
    host_mount_uid: int = Field(
        default=1000,
        ge=1,
        description="Host user and group id that files in such directories have for uid 1000 of a sandbox.",
    )
    runtime: Literal["auto", "container", "microvm"] = Field(
        default="auto",
        description="What isolates sandboxes; `auto` means microVMs where KVM boots a guest, else containers.",
    )
    seat_pool: int = Field(
        default=16,
        ge=0,
        description="Links, cgroups and user namespaces kept ready at least for the next sandboxes.",
    )
    seat_pool_max: int = Field(
        default=0,
        ge=0,
        description="The same at most, made while nobody asks for any; 0 means one per 48 MiB of memory, up to 512.",
    )
    warm_pool: int = Field(
        default=1, ge=0, description="Started sandboxes with a loaded interpreter kept ready at least, per template."
    )
    warm_pool_max: int = Field(
        default=8, ge=0, description="The same at most, when many were asked for of late; 0 keeps none ready."
    )
    vm_zygotes: int = Field(
        default=4,
        ge=0,
        description="Templates of emulated microVMs of which a machine stands still to be forked; 0 starts each anew.",
    )
    memory_reserve: int = Field(
        default=10,
        ge=0,
        le=90,
        description="Percent of the memory that must be available for anything to be kept ready.",
    )
    max_sandboxes: int = Field(
        default=2000, ge=1, le=16000, description="Sandboxes alive at once on this node; more get 429."
    )
    max_templates: int = Field(default=1000, ge=1, description="Templates that clients build; more get 429.")
    builds_at_once: int = Field(default=2, ge=1, le=64, description="Template builds at the same time; others wait.")
    build_timeout: int = Field(default=3600, ge=1, description="Longest build of a template, in seconds.")
    build_layers: int = Field(
        default=200, ge=16, description="Results of build steps that are kept to be used again; the latest ones."
    )
    build_upload_mb: int = Field(
        default=2048, ge=1, description="Largest upload of files for a template build, in MiB as it is sent."
    )
    max_snapshots: int = Field(default=10000, ge=1, description="Snapshots kept on this node; more get 429.")
    volume_gb: int = Field(
        default=0,
        ge=0,
        description="Size of the sparse file for writable layers and volumes; 0 means 80 % of the free space.",
    )
    volume_quota_mb: int = Field(
        default=10240, ge=1, description="Most that one volume of a client can hold, in MiB; for new volumes."
    )
    max_volumes: int = Field(default=1000, ge=0, description="Volumes of clients on this node; more get 429.")
    default_timeout: int = Field(
        default=300, ge=1, description="Seconds a sandbox lives when the client names no timeout."
    )
    max_timeout: int = Field(
        default=86400,
        ge=1,
        description="Longest timeout that a client may ask for, in seconds; -1, for no end, is always allowed.",
    )
    metrics_interval: float = Field(
        default=5,
        ge=0,
        le=300,
        description="Seconds between two samples of what a sandbox uses; 0 samples only when somebody asks.",
    )
    proxy_uid: int = Field(
        default=64100,
        description="Host user id that the inbound proxy runs as; only it may open connections to sandboxes.",
    )
    node_token: str = Field(
        default="",
        repr=False,
        description="Bearer token of nodes, for what is theirs alone, as the key of the egress CA; empty admits none.",
    )
    egress_port: int = Field(
        default=15001,
        ge=1,
        le=65535,
        description="Port on the loopback address that connections of sandboxes with egress rules are diverted to.",
    )
    egress_uid: int = Field(
        default=64101,
        description="Host user id that the outbound proxy runs as; never the inbound proxy's.",
    )
    egress_trust: Path = Field(
        default=Path("/etc/ssl/certs/ca-certificates.crt"),
        description="PEM file with the authorities that the outbound proxy checks servers' certificates against.",
    )
    egress_private: str = Field(
        default="",
        description="Private networks, separated by commas, that egress rules may lead to; empty allows none.",
    )
    vm_kernel: str = Field(
        default="",
        description="Kernel that microVMs boot, a vmlinux or bzImage; empty takes Debian's cloud kernel.",
    )
    vm_modules: str = Field(
        default="",
        description="Directory of that kernel's modules (`/lib/modules/<version>`); empty when all is built in.",
    )
    debug_listen: str = Field(
        default="",
        pattern=r"^(|127\.[0-9.]+:[0-9]{1,5})$",
        description="Loopback `address:port` of a listener that shows what the service is doing; empty opens none.",
    )
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="Least severe level that is logged."
    )

    @field_validator("auth_callback_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("the callback must be an http or https URL")
        return value

    @field_validator("dns_servers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in filter(None, value.split(",")):
            ipaddress.IPv4Address(address.strip())
        return value

    @field_validator("egress_private")
    @classmethod
    def _networks(cls, value: str) -> str:
        for network in filter(None, value.split(",")):
            ipaddress.ip_network(network.strip())
        return value

    @field_validator("sandbox_connections")
    @classmethod
    def _step(cls, value: int) -> int:
        if value not in _CONNECTION_STEPS:
            raise ValueError(f"must be one of {', '.join(map(str, _CONNECTION_STEPS))}")
        return value

    @field_validator("host_mount_prefixes")
    @classmethod
    def _directories(cls, value: str) -> str:
        for path in filter(None, value.split(",")):
            if not path.startswith("/") or not path.strip("/."):
                raise ValueError("each must be an absolute path; the whole host cannot be given to sandboxes")
            if ".." in path.split("/"):
                raise ValueError("name the directories without `..`")
        return value

    @model_validator(mode="after")
    def _domain_for_tls(self) -> Settings:
        if self.tls != "off" and "." not in self.public_name:
            raise ValueError("with TLS the domain needs a dot: clients refuse certificates for all of a top-level name")
        return self

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Settings:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together")
        return self

    @model_validator(mode="after")
    def _separate_ids(self) -> Settings:
        if self.host_mount_uid >= self.shared_id_base:
            raise ValueError("host_mount_uid must not lie in the ids of sandboxes, or in the 65,536 below id_base")
        return self

    @field_validator("network_cidr")
    @classmethod
    def _network(cls, value: str) -> str:
        network = ipaddress.IPv4Network(value)
        if network.prefixlen > 28:
            raise ValueError("the network must be /28 or larger: every sandbox takes two addresses")
        return value

    @property
    def dns_server_list(self) -> tuple[str, ...]:
        """The addresses that ``dns_servers`` names."""
        return tuple(address.strip() for address in self.dns_servers.split(",") if address.strip())

    @property
    def host_mount_directories(self) -> tuple[str, ...]:
        """The clean paths that ``host_mount_prefixes`` names."""
        return tuple("/" + posixpath.normpath(path).lstrip("/") for path in self.host_mount_prefixes.split(",") if path)

    @property
    def shared_id_base(self) -> int:
        """First of the host ids, as many as a sandbox has, that stand for sandboxes' ids in what several of them share:
        volumes, and directories of the host."""
        return self.id_base - ID_RANGE

    @property
    def public_domain(self) -> str:
        """Domain that clients build sandbox host names from; may carry a port."""
        return self.domain or f"{'localhost' if self.tls == 'off' else 'cube.localhost'}:{self.port}"

    @property
    def public_name(self) -> str:
        """That domain without its port."""
        return self.public_domain.rpartition(":")[0] or self.public_domain

    @property
    def public_addresses(self) -> tuple[str, ...]:
        """Addresses beside loopback by which clients may know the public port."""
        return () if self.host in ("0.0.0.0", "::") else (self.host,)  # noqa: S104  comparison only

    @property
    def tls_dir(self) -> Path:
        """The instance's own authority and certificate."""
        return self.state_dir / "tls"

    @property
    def public_url(self) -> str:
        """URL of the public port for a client on this machine."""
        return f"http://{self.public_address}:{self.port}"

    @property
    def public_address(self) -> str:
        """Address at which a client on this machine reaches the public port."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  comparison only

    @property
    def volume_dir(self) -> Path:
        """Mount point of the btrfs volume that holds the writable layers."""
        return self.state_dir / "volume"

    @property
    def templates_dir(self) -> Path:
        """One directory per template: its erofs image and its manifest."""
        return self.state_dir / "templates"

    @property
    def database(self) -> Path:
        """The embedded SQLite database."""
        return self.state_dir / "cube.db"

    @property
    def ca_dir(self) -> Path:
        """The authority that signs for servers in sandboxes with egress rules: its certificate and its key."""
        return self.state_dir / "ca"

    @property
    def network_socket(self) -> Path:
        """Where the network agent answers, Connect RPC and HTTP, for root of this machine alone."""
        return self.run_dir / "network" / "agent.sock"

    @property
    def network_fd_socket(self) -> Path:
        """Where the network agent hands out descriptors."""
        return self.run_dir / "network" / "tap.sock"

    @property
    def egress_admin_socket(self) -> Path:
        """Where the outbound proxy's policies can be looked at and changed, by root of this machine alone."""
        return self.run_dir / "egress-admin.sock"

    @property
    def egress_version_file(self) -> Path:
        """Says which build the outbound proxy is that was started last."""
        return self.state_dir / "egress" / "version"

    @property
    def egress_log(self) -> Path:
        """The audit log of the outbound proxy; what was put aside of it lies beside it."""
        return self.state_dir / "log" / "egress" / "access.jsonl"

    @property
    def api_socket(self) -> Path:
        """Unix socket on which the API listens behind the proxy."""
        return self.run_dir / "proxy" / "api.sock"

    @property
    def envd_socket(self) -> Path:
        """Unix socket on which envd and the code interpreter listen behind the proxy."""
        return self.run_dir / "proxy" / "envd.sock"

    @property
    def xds_socket(self) -> Path:
        """Unix socket on which the proxy fetches its configuration."""
        return self.run_dir / "proxy" / "xds.sock"


def require_root() -> None:
    """Refuse to go on without root; raises ``PermissionError`` with what to do."""
    if os.geteuid() != 0:
        raise PermissionError("cube needs root to make namespaces, mounts and cgroups: run it with sudo")
