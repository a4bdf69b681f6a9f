"""The three ways to the descriptor of a TAP, what each costs, and the server that hands descriptors out."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType

import orjson
import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.model.errors import HostError, InvalidInput, SandboxNotFound
from cube.netagent.networks import fd_server
from cube.netagent.networks.fd_server import LONGEST_REQUEST, answer, request
from cube.netagent.networks.state import Kind, Network
from cube.netagent.networks.tap_files import Held, TapFile, TapFiles, Tier
from support.descriptors import open_fds
from support.networks import Ground, agent_settings, running, wanted

pytestmark = pytest.mark.root

_TUNGETIFF = 0x800454D2


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with running(agent_settings(tmp_path)) as made:
        yield made


def interface_of(descriptor: int) -> str:
    """Which interface a descriptor is, as the kernel says."""
    raw = fcntl.ioctl(descriptor, _TUNGETIFF, bytes(40))
    return raw[:16].rstrip(b"\0").decode()


def system_calls(work: Callable[[], object]) -> list[str]:
    """Functions of the interpreter's own that ask the kernel for something, as ``work`` calls them."""
    called: list[str] = []

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_call" and getattr(argument, "__module__", "") in ("posix", "fcntl", "_socket"):
            called.append(str(getattr(argument, "__name__", argument)))

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


async def test_n1_a_descriptor_that_is_there_costs_no_system_call(ground: Ground) -> None:
    network = await ground.networks.ensure(wanted("one"))
    files, found = TapFiles(), []
    assert system_calls(lambda: found.append(files.cached(network))) == []
    assert isinstance(found[0], TapFile)
    assert interface_of(found[0].descriptor) == network.interface
    assert files.tiers == {Tier.CACHED: 1, Tier.POOL: 0, Tier.RESTORED: 0}


async def test_n1_a_known_interface_costs_two_system_calls(tmp_path: Path) -> None:
    settings = agent_settings(tmp_path)
    async with running(settings, remove=False) as ground:
        await ground.networks.ensure(wanted("one"))
    async with running(settings) as ground:
        network = ground.networks.get("one")
        files, found = TapFiles(), []
        assert files.cached(network) is None
        assert system_calls(lambda: found.append(files.opened(network))) == ["open", "ioctl"]
        assert interface_of(found[0]) == network.interface
        assert files.tiers == {Tier.CACHED: 0, Tier.POOL: 1, Tier.RESTORED: 0}
        os.close(found[0])


async def test_n1_the_cheapest_way_is_taken_and_counted(tmp_path: Path) -> None:
    """Cached while the agent has it, opened after a restart, cached again; made anew only when it is gone."""
    settings = agent_settings(tmp_path)
    async with running(settings, remove=False) as ground:
        network = await ground.networks.ensure(wanted("one"))
        await ground.networks.file("one", network.interface)
        assert ground.networks.tiers() == {Tier.CACHED: 1, Tier.POOL: 0, Tier.RESTORED: 0}
    async with running(settings) as ground:
        found = await ground.networks.file("one", network.interface)
        assert await ground.networks.file("one", network.interface) == found
        assert ground.networks.tiers() == {Tier.CACHED: 1, Tier.POOL: 1, Tier.RESTORED: 0}
        await lose(ground, ground.networks.get("one"))
        restored = await ground.networks.file("one", network.interface)
        assert ground.networks.tiers() == {Tier.CACHED: 1, Tier.POOL: 1, Tier.RESTORED: 1}
        assert interface_of(restored.descriptor) == network.interface
        assert restored.interface_index == socket.if_nametoindex(network.interface)
        assert ground.agent.attachment("one").link.interface == network.interface


async def lose(ground: Ground, network: Network) -> None:
    """Have nothing in memory of a network's link, as after it could not be made again once."""
    await ground.agent.taps.discard(network.index)
    network.link = None


async def test_n1_an_interface_that_somebody_has_open_is_not_taken_away_from_him(tmp_path: Path) -> None:
    settings = agent_settings(tmp_path)
    async with running(settings, remove=False) as ground:
        network = await ground.networks.ensure(wanted("one"))
        holder = os.dup((await ground.networks.file("one", network.interface)).descriptor)
    try:
        async with running(settings) as ground:
            with pytest.raises(Held):
                await ground.networks.file("one", network.interface)
            assert interface_of(holder) == network.interface
    finally:
        os.close(holder)


async def test_n1_another_name_is_refused(ground: Ground) -> None:
    one, two = [await ground.networks.ensure(wanted(name)) for name in ("one", "two")]
    with pytest.raises(InvalidInput, match="is not called"):
        await ground.networks.file("one", two.interface)
    with pytest.raises(SandboxNotFound):
        await ground.networks.file("three", one.interface)


async def asked(ground: Ground, sandbox_id: str, name: str) -> tuple[int, int]:
    """What the client's function gives, over a pair of sockets."""
    ours, theirs = socket.socketpair()
    with ours:
        serving = asyncio.create_task(answer(theirs, ground.networks))
        try:
            return await asyncio.to_thread(request, ours, sandbox_id, name)
        finally:
            await serving


@pytest.mark.parametrize("kind", [Kind.TAP, Kind.VETH])
async def test_n2_the_answer_has_the_descriptor_and_the_number(ground: Ground, kind: Kind) -> None:
    network = await ground.networks.ensure(wanted("one", kind))
    descriptor, index = await asked(ground, "one", network.interface)
    try:
        assert index == network.interface_index == socket.if_nametoindex(network.interface)
        if kind is Kind.TAP:
            assert interface_of(descriptor) == network.interface
        else:
            inside = await asyncio.to_thread(names_inside, descriptor)
            assert inside == ["eth0", "lo"]
    finally:
        os.close(descriptor)


def names_inside(namespace: int) -> list[str]:
    listed = subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", "ip", "-o", "link"],
        pass_fds=[namespace],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(line.split(": ")[1].split("@")[0] for line in listed.stdout.splitlines())


async def test_n2_a_client_looks_the_number_up_when_an_older_agent_does_not_tell_it(ground: Ground) -> None:
    network = await ground.networks.ensure(wanted("one"))
    found = await ground.networks.file("one", network.interface)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(theirs, [b'{"errCode":"0","errMsg":"Success","ifindex":0}'], [found.descriptor])
        descriptor, index = request(ours, "one", network.interface)
    os.close(descriptor)
    assert index == socket.if_nametoindex(network.interface)


async def test_n2_failures_are_told_and_no_descriptor_leaks(ground: Ground) -> None:
    network = await ground.networks.ensure(wanted("one"))
    assert await poll_until(lambda: ground.agent.taps.ready == ground.settings.seat_pool, 10)
    before = len(open_fds())
    with pytest.raises(SandboxNotFound):
        await asked(ground, "two", network.interface)
    with pytest.raises(HostError, match="1002"):
        await asked(ground, "one", "other0")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(theirs, [b'{"errCode":"0","errMsg":"Success","ifindex":0}'], [ours.fileno()])
        with pytest.raises(HostError, match="no interface"):
            request(ours, "one", "gone0")
    assert await poll_until(lambda: len(open_fds()) <= before, 10)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'{"name":1,"sandboxId":"one"}',
        b'{"name":"","sandboxId":"one"}',
        b"x" * 2000,
        b"\xff",
    ],
    ids=["text", "list", "empty", "number", "no-name", "long", "bytes"],
)
async def test_n2_what_nobody_understands_is_1001(ground: Ground, said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        serving = asyncio.create_task(answer(theirs, ground.networks))
        await asyncio.get_running_loop().sock_sendall(ours, said)
        told = orjson.loads(await asyncio.get_running_loop().sock_recv(ours, 4096))
        await serving
    assert told["errCode"] == "1001"
    assert len(said) <= LONGEST_REQUEST or "at most" in told["errMsg"]


async def test_a_client_that_says_nothing_is_cut_off_and_others_are_served(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fd_server, "_PATIENCE", 0.2)
    network = await ground.networks.ensure(wanted("one"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "tap.sock"))
        listener.listen()
        async with fd_server.serving(listener, ground.networks):
            with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as other:
                silent.connect(str(tmp_path / "tap.sock"))
                other.connect(str(tmp_path / "tap.sock"))
                descriptor, _ = await asyncio.to_thread(request, other, "one", network.interface)
                os.close(descriptor)
                silent.settimeout(10)
                assert await asyncio.to_thread(silent.recv, 1) == b""
