"""What Envoy does that one would not think, and what is done about it here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cube.egress.envoy.clusters import world_clusters
from cube.egress.envoy.options import envoy_options
from support.egress.world import NAMES, Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"
_PER_BOX, _BOXES = 250, 5


def secured(**match: object) -> dict[str, object]:
    made = rule("secured", **match)
    made["action"]["inject"] = [{"header": "Authorization", "secret": SECRET}]
    return made


async def test_trap_more_than_1024_names_get_their_certificates(world: EgressWorld) -> None:
    """A stream of its own for each secret would stall at 1,024: there is one for everything."""
    hosts = [[f"n{number}.b{one}.test" for number in range(_PER_BOX)] for one in range(_BOXES)]
    boxes = [world.box() for _ in hosts]
    for box, names in zip(boxes, hosts, strict=True):
        await box.allow(*(rule(host=name) for name in names))

    async def shake(box: Box, name: str) -> None:
        _, writer = await box.client().connect("api.a.test", 443, tls=True, sni=name)
        writer.close()

    for box, names in zip(boxes, hosts, strict=True):
        for begin in range(0, _PER_BOX, 25):
            await asyncio.gather(*(shake(box, name) for name in names[begin : begin + 25]))
    _, stats = await world.ask_envoy("/stats?filter=cluster.xds.upstream_rq_active")

    assert "cluster.xds.upstream_rq_active: 1" in stats.decode().split("\n")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_trap_the_port_in_host_does_not_choose_the_port_that_is_dialled(
    world: EgressWorld, box: Box, scheme: str
) -> None:
    await box.allow(secured(host="api.a.test"), rule(host="*.a.test"))

    for port in (8443, 80 if scheme == "https" else 443, 65536, 0):
        reply = await box.get(f"{scheme}://api.a.test/", host=f"api.a.test:{port}")
        assert reply.status in (400, 403, 421)

    assert world.internet.seen == []


async def test_trap_envoy_is_never_at_debug_level(world: EgressWorld, box: Box) -> None:
    """There it prints headers as it sends them, the injected ones too; at its level nothing of them is printed."""
    settings = world.settings.model_copy(update={"log_level": "debug"})
    options = envoy_options(settings, world.egress._world)
    command = command_line(world.egress.envoy_pid)
    await box.allow(secured(host="api.a.test"))
    assert (await box.get("https://api.a.test/")).status == 200
    _, loggers = await world.ask_envoy("/server_info")

    assert "debug" not in " ".join(options.arguments)
    assert command[command.index("--log-level") + 1] == "warning"
    assert json.loads(loggers)["command_line_options"]["log_level"] == "warning"
    assert SECRET not in (world.settings.run_dir / "egress" / "envoy.log").read_text()


def command_line(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_trap_no_cluster_dials_the_address_that_the_sandbox_chose(world: EgressWorld, box: Box) -> None:
    """A cluster of the original destination would hand the injected header to whoever lives there."""
    clusters = json.dumps(world_clusters(world.egress._world))
    await box.allow(secured(host="*.a.test"))

    for name in ("api.a.test", "www.a.test"):
        assert (await box.get(f"https://{name}/", address=NAMES["evil.test"])).status == 200
        await box.get(f"http://{name}/", address=NAMES["evil.test"])

    assert "ORIGINAL_DST" not in clusters
    assert {one.address for one in world.internet.seen} == {NAMES["api.a.test"], NAMES["www.a.test"]}


async def test_trap_a_control_plane_that_comes_back_is_found_at_once(world: EgressWorld) -> None:
    """Without a short back-off Envoy waits for up to 11 seconds."""
    bootstrap = envoy_options(world.settings, world.egress._world).bootstrap
    service = bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0]

    assert service["envoy_grpc"]["retry_policy"]["retry_back_off"]["max_interval"] == "0.5s"
