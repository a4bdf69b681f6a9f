"""The discovery service with Envoy as its client: resources come, change and go while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from proxy_door import free_port

from cube.proxy import admin, clusters, resources, sockets
from cube.proxy.bootstrap import bootstrap
from cube.proxy.delta import Accepted, Catalogue, Rejected
from cube.proxy.envoy import EnvoyOptions, EnvoyProcess
from cube.proxy.listener import public_listener
from cube.proxy.xds import XdsServer

pytestmark = pytest.mark.root

UID = 64100


@dataclass
class Client:
    """An Envoy that has nothing but what the server gives it."""

    server: XdsServer
    options: EnvoyOptions
    receipts: asyncio.Queue[Accepted | Rejected] = field(default_factory=asyncio.Queue)

    async def receipt(self, type_url: str) -> Accepted | Rejected:
        """The next receipt for resources of this type."""
        async with asyncio.timeout(10):
            while True:
                receipt = await self.receipts.get()
                if receipt.response.type_url == type_url:
                    return receipt

    async def clusters(self) -> set[str]:
        """Names of the clusters that Envoy got from the server."""
        _, body = await admin.ask(self.options.admin_socket, "/config_dump?resource=dynamic_active_clusters")
        return {config["cluster"]["name"] for config in json.loads(body)["configs"]}


@pytest.fixture
async def client(run_dir: Path) -> AsyncIterator[Client]:
    home, receipts = run_dir / "proxy", asyncio.Queue[Accepted | Rejected]()
    sockets.prepare_directory(home, UID)
    server = XdsServer(Catalogue(), receipts.put_nowait)
    config = bootstrap("test", home / "admin" / "admin.sock", home / "xds.sock")
    options = EnvoyOptions(directory=home, uid=UID, bootstrap=config, concurrency=1)
    envoy = EnvoyProcess(options)
    with sockets.listening(home / "xds.sock", UID) as listener:
        serving = asyncio.create_task(server.serve(listener))
        await envoy.start()
        try:
            yield Client(server, options, receipts)
        finally:
            await envoy.stop()
            serving.cancel()
            await asyncio.wait([serving])
    sockets.remove_directory(home)


async def test_nothing_at_all_is_accepted(client: Client) -> None:
    for type_url in (resources.CLUSTER, resources.LISTENER):
        receipt = await client.receipt(type_url)
        assert isinstance(receipt, Accepted)
        assert receipt.response.resources == ()


async def test_clusters_come_and_go(client: Client, run_dir: Path) -> None:
    await client.receipt(resources.CLUSTER)
    for name in ("one", "two"):
        client.server.put(resources.cluster(clusters.service(name, run_dir / name)))
        assert isinstance(await client.receipt(resources.CLUSTER), Accepted)
    assert await client.clusters() == {"one", "two"}
    client.server.drop(resources.CLUSTER, "one")
    receipt = await client.receipt(resources.CLUSTER)
    assert receipt.response.removed == ("one",)
    assert await client.clusters() == {"two"}


def break_address(listener: dict[str, Any]) -> None:
    listener["address"]["socket_address"]["address"] = "not-an-address"


def break_script(listener: dict[str, Any]) -> None:
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["default_source_code"]["inline_string"] = "this is no Lua"


@pytest.mark.parametrize("damage", [break_address, break_script])
async def test_refusal_comes_with_its_reason_and_a_better_one_is_taken(
    client: Client, run_dir: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    await client.receipt(resources.LISTENER)
    for config in (clusters.sandboxes(), *(clusters.service(name, run_dir / name) for name in ("api", "envd"))):
        client.server.put(resources.cluster(config))
    port = free_port()
    listener = public_listener("127.0.0.1", port, "localhost", run_dir)
    damage(listener)
    client.server.put(resources.listener(listener))
    receipt = await client.receipt(resources.LISTENER)
    assert isinstance(receipt, Rejected)
    assert "public" in receipt.reason
    client.server.put(resources.listener(public_listener("127.0.0.1", port, "localhost", run_dir)))
    assert isinstance(await client.receipt(resources.LISTENER), Accepted)


async def test_many_resources_at_once(client: Client, run_dir: Path) -> None:
    await client.receipt(resources.CLUSTER)
    names = {f"cluster{number}" for number in range(300)}
    for name in names:
        client.server.put(resources.cluster(clusters.service(name, run_dir / name)))
    seen: set[str] = set()
    while seen != names:
        receipt = await client.receipt(resources.CLUSTER)
        assert isinstance(receipt, Accepted)
        seen |= {resource.name for resource in receipt.response.resources}
    assert await client.clusters() == names
