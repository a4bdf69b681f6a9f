"""The pool of links, on real namespaces."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.helper.process import Helper
from cube.model.errors import HostError, LimitExceeded, Unavailable
from cube.netagent import namespaces
from cube.netagent.firewall import Firewall
from cube.netagent.links import Link, LinkPool
from cube.netagent.rtnetlink import RouteSocket, add_default_route
from cube.netagent.veth import LinkFactory
from cube.settings import Settings
from support import network
from support.descriptors import open_fds
from support.network import CONNECT, GREET, PING, run, traces

pytestmark = pytest.mark.root
Start = Callable[..., subprocess.Popen[str]]
SLEEP = "print('in', flush=True); time.sleep(60)"
#: Uses the loopback interface once.
LOOPBACK = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'x', ('127.0.0.1', 9))
"""
#: A service that is killed in the middle: two sandboxes, one of them running.
SERVICE = """
import asyncio, sys
from cube.netagent.links import LinkPool
from cube.settings import Settings
from support.network import start
async def main():
    pool = LinkPool(Settings.model_validate_json(sys.argv[1]))
    await pool.start()
    link, other = await pool.acquire(), await pool.acquire()
    child = start("print(1, flush=True); time.sleep(60)", namespace=link.namespace)
    child.stdout.readline()
    print(link.index, child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def interfaces(settings: Settings) -> list[str]:
    with RouteSocket() as netlink:
        return sorted(link.name for link in netlink.links(f"{settings.instance}-"))


async def filled(pool: LinkPool, count: int) -> None:
    assert await poll_until(lambda: pool.ready >= count, 10)


async def eventually(ask: Callable[[], Awaitable[object]], wanted: object) -> bool:
    for _ in range(2000):
        if await ask() == wanted:
            return True
        await asyncio.sleep(0.005)
    return False


async def test_link_is_ready_to_use(pool: LinkPool) -> None:
    link = await pool.acquire()
    assert int(link.address) == int(link.gateway) + 1
    assert int(link.gateway) % 2 == 0
    settings = "print(*(open('/proc/sys/net/ipv4/' + name).read().strip() for name in ({})))"
    names = "'ip_unprivileged_port_start', 'ping_group_range'"
    assert await run(settings.format(names), namespace=link.namespace) == "0 0\t2147483647"
    listen = "print(socket.create_server(('127.0.0.1', 80)).getsockname()[1])"
    assert await run(listen, namespace=link.namespace, uid=64999) == "80"


async def test_pool_is_filled_in_the_background_and_again(pool: LinkPool) -> None:
    await filled(pool, 2)
    taken = [await pool.acquire() for _ in range(4)]
    assert len({link.index for link in taken}) == len({link.address for link in taken}) == 4
    await filled(pool, 2)


async def test_many_at_once_get_different_links(pool: LinkPool) -> None:
    links = await asyncio.gather(*(pool.acquire() for _ in range(8)))
    assert len({link.index for link in links}) == 8


async def test_unused_link_is_used_again(pool: LinkPool, settings: Settings) -> None:
    await filled(pool, 2)
    link = await pool.acquire()
    pool.release(link)
    seen = [await pool.acquire() for _ in range(3)]
    assert link in seen


async def test_links_that_come_back_are_kept_as_long_as_they_are_expected(pool: LinkPool, settings: Settings) -> None:
    """Making one costs ten times what a look at it does, and taking it away as much again."""
    pool.expect(6)
    links = [await pool.acquire() for _ in range(6)]
    for link in links:
        pool.release(link)
    await filled(pool, 6)
    again = [await pool.acquire() for _ in range(6)]
    assert len({link.index for link in again} & {link.index for link in links}) >= 4
    for link in again:
        pool.release(link)
    await filled(pool, 6)
    pool.expect(0)
    assert await poll_until(lambda: len(interfaces(settings)) == 2, 10)


@pytest.mark.parametrize("use", [LOOPBACK, PING], ids=["loopback", "ping"])
async def test_used_link_is_not_used_again(pool: LinkPool, settings: Settings, use: str) -> None:
    link = await pool.acquire()
    await run(use, link.gateway, namespace=link.namespace)
    pool.release(link)
    assert await poll_until(lambda: link.interface not in interfaces(settings), 10)
    await filled(pool, 2)
    assert link not in [await pool.acquire() for _ in range(3)]


async def test_released_twice_counts_once(pool: LinkPool) -> None:
    link = await pool.acquire()
    pool.release(link)
    pool.release(link)
    links = [await pool.acquire() for _ in range(6)]
    assert len({taken.index for taken in links}) == 6


async def test_every_address_in_use(pool: LinkPool) -> None:
    links = [await pool.acquire() for _ in range(8)]
    with pytest.raises(LimitExceeded, match="every address"):
        await pool.acquire()
    pool.release(links[3])
    assert (await pool.acquire()).index == links[3].index


async def test_cancelled_acquire_loses_no_link(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(seat_pool=0)
    pool = LinkPool(settings)
    await pool.start()
    try:
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        links = [await pool.acquire() for _ in range(8)]
        assert len({link.index for link in links}) == 8
    finally:
        await pool.close(remove=True)


async def test_interface_of_somebody_else_is_left_alone(pool: LinkPool, settings: Settings, start: Start) -> None:
    links = [await pool.acquire() for _ in range(8)]
    child = start(SLEEP, namespace=links[0].namespace)
    child.stdout.readline()  # type: ignore[union-attr]
    # Given back by mistake while a process is in it: the interface stays, and its index is passed over.
    await run(LOOPBACK, namespace=links[0].namespace)
    pool.release(links[0])
    assert await eventually(pool.leftovers, {links[0].index})
    with pytest.raises(LimitExceeded):
        await pool.acquire()
    await pool.discard(links[0].index)
    await filled(pool, 1)
    assert (await pool.acquire()).index == links[0].index


async def test_discard_cuts_off_whoever_is_there(pool: LinkPool, settings: Settings, start: Start) -> None:
    link = await pool.acquire()
    child = start(SLEEP, namespace=link.namespace)
    child.stdout.readline()  # type: ignore[union-attr]
    await pool.discard(link.index)
    assert link.interface not in interfaces(settings)
    await pool.discard(link.index)


async def test_close_leaves_nothing(settings: Settings, start: Start) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)  # the loop's own thread and descriptors do not count
    before = traces(settings.instance)
    pool, firewall = LinkPool(settings), Firewall(settings)
    await firewall.install()
    await pool.start()
    links = [await pool.acquire() for _ in range(4)]
    pool.release(links[0])
    child = network.start(SLEEP, namespace=links[1].namespace)
    assert traces(settings.instance) != before
    await pool.close(remove=True)
    await firewall.remove()
    child.kill()
    child.communicate()
    after = traces(settings.instance)
    threads = before.pop("threads"), after.pop("threads")
    assert after == before
    assert threads[1] <= threads[0] + 1  # of asyncio.to_thread


async def test_pool_refuses_before_start_and_after_close(settings: Settings) -> None:
    pool = LinkPool(settings)
    with pytest.raises(Unavailable):
        await pool.acquire()
    await pool.start()
    await pool.close(remove=True)
    with pytest.raises(Unavailable):
        await pool.acquire()


async def test_network_of_somebody_else_is_refused(settings: Settings) -> None:
    pool = LinkPool(settings.model_copy(update={"network_cidr": "127.0.0.0/16"}))
    try:
        with pytest.raises(HostError, match="CUBE_NETWORK_CIDR"):
            await pool.start()
    finally:
        await pool.close(remove=True)


async def test_service_threads_stay_in_their_namespace(pool: LinkPool) -> None:
    links = [await pool.acquire() for _ in range(4)]
    for link in links:
        pool.release(link)
    await filled(pool, 2)
    here = {os.stat(f"/proc/self/task/{thread}/ns/net").st_ino for thread in os.listdir("/proc/self/task")}
    assert len(here) == 1


@pytest.fixture
def killed_service(settings: Settings) -> Iterator[tuple[int, int]]:
    """A service that was killed; the index of the link and the process of a sandbox that still runs."""
    command = [sys.executable, "-c", SERVICE, settings.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as service:
        assert service.stdout is not None
        index, pid = map(int, service.stdout.readline().split())
        service.send_signal(signal.SIGKILL)
    yield index, pid
    os.kill(pid, signal.SIGKILL)


async def test_running_sandbox_survives_kill_of_the_service(
    settings: Settings, killed_service: tuple[int, int]
) -> None:
    index, pid = killed_service
    pool = LinkPool(settings)
    try:
        await pool.start()
        assert await eventually(pool.leftovers, {index}), "links that no sandbox had must vanish with the service"
        with pytest.raises(HostError, match="another network namespace"):
            await pool.adopt(index, os.getpid())
        link = await pool.adopt(index, pid)
        assert await run(PING, link.gateway, namespace=link.namespace) == str(link.gateway)
        with pytest.raises(HostError, match="in use"):
            await pool.adopt(index, pid)
        assert index not in [(await pool.acquire()).index for _ in range(7)]
    finally:
        await pool.close(remove=True)
    assert interfaces(settings) == []


async def test_what_is_gone_cannot_be_adopted(make_settings: Callable[..., Settings], start: Start) -> None:
    pool = LinkPool(make_settings(seat_pool=0))
    child = start(SLEEP)
    try:
        with pytest.raises(HostError, match=r"the link .* is gone"):
            await pool.adopt(1, child.pid)
        child.kill()
        child.wait()
        with pytest.raises(HostError, match=r"the network namespace of process .* is gone"):
            await pool.adopt(1, child.pid)
    finally:
        await pool.close(remove=True)


async def test_orderly_restart_keeps_links_of_running_sandboxes(settings: Settings, start: Start) -> None:
    first, second = LinkPool(settings), LinkPool(settings)
    try:
        await first.start()
        link = await first.acquire()
        child = start(SLEEP, namespace=link.namespace)
        child.stdout.readline()  # type: ignore[union-attr]
        await first.close(remove=False)
        assert await poll_until(lambda: interfaces(settings) == [link.interface], 10)
        await second.start()
        adopted = await second.adopt(link.index, child.pid)
        assert (adopted.address, adopted.interface) == (link.address, link.interface)
    finally:
        await second.close(remove=True)


async def test_two_instances_side_by_side(make_settings: Callable[..., Settings], start: Start) -> None:
    one = make_settings()
    two = make_settings(instance=f"{one.instance}2")
    pools, walls = [LinkPool(one), LinkPool(two)], [Firewall(one), Firewall(two)]
    try:
        for pool, wall in zip(pools, walls, strict=True):
            await wall.install()
            await pool.start()
        here, there = await pools[0].acquire(), await pools[1].acquire()
        server = start(GREET, namespace=there.namespace)
        port = server.stdout.readline().strip()  # type: ignore[union-attr]
        assert await run(CONNECT, there.address, port, namespace=here.namespace) == "ECONNREFUSED"
        await pools[0].close(remove=True)
        await walls[0].remove()
        assert interfaces(one) == []
        assert await run(PING, there.gateway, namespace=there.namespace) == str(there.gateway)
        assert await run(CONNECT, there.address, port) == "ECONNREFUSED"
        assert await run(CONNECT, there.address, port, uid=two.proxy_uid) == "hello"
    finally:
        for pool, wall in zip(pools, walls, strict=True):
            await pool.close(remove=True)
            await wall.remove()


def test_failed_make_leaves_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = LinkFactory(LinkPool(settings)._plan)

    def refuse(name: str) -> None:
        raise PermissionError(13, "no")

    before = len(open_fds())
    monkeypatch.setattr(factory, "_close_host_end", refuse)
    with pytest.raises(PermissionError):
        factory.make(3)
    assert len(open_fds()) == before
    factory.remove_all([])
    assert interfaces(settings) == []
    factory.close()


def test_refusal_carries_the_words_of_the_kernel(pool_link: Link) -> None:
    home = namespaces.own_namespace()
    try:
        with namespaces.inside(pool_link.namespace, home), RouteSocket() as inner:
            with pytest.raises(OSError, match="gateway"):
                inner.request([add_default_route(1, pool_link.gateway + 100)])
            with pytest.raises(OSError, match="No such device"):
                inner.link("eth9")
    finally:
        os.close(home)


@pytest.fixture
async def pool_link(pool: LinkPool) -> Link:
    return await pool.acquire()


class TestWithAHelper:
    """Links that another process makes are the same links."""

    @pytest.fixture
    def helper(self) -> Iterator[Helper]:
        helper = Helper()
        helper.start()
        yield helper
        helper.close()

    @pytest.fixture
    async def helped(self, settings: Settings, helper: Helper) -> AsyncIterator[LinkPool]:
        pool = LinkPool(settings, helper)
        yield pool
        await pool.close(remove=True)

    async def test_a_link_is_ready_to_use(self, helped: LinkPool, helper: Helper, settings: Settings) -> None:
        before = open_fds()
        await helped.start()
        link = await helped.acquire()
        listen = "print(socket.create_server(('127.0.0.1', 80)).getsockname()[1])"
        assert await run(listen, namespace=link.namespace, uid=64999) == "80"
        assert await run(PING, link.gateway, namespace=link.namespace) == str(link.gateway)
        assert helper.pid is not None
        await helped.close(remove=True)
        assert interfaces(settings) == []
        assert len(open_fds()) <= len(before)

    async def test_one_whose_name_is_taken_is_passed_over(self, helped: LinkPool, settings: Settings) -> None:
        await helped.start()
        await filled(helped, 2)
        helped._next = next(iter(helped._taken))
        helped._taken.clear()
        assert len({(await helped.acquire()).interface for _ in range(4)}) == 4

    async def test_it_may_die(self, helped: LinkPool, helper: Helper) -> None:
        await helped.start()
        await helped.acquire()
        assert helper.pid is not None
        os.kill(helper.pid, signal.SIGKILL)
        links = [await helped.acquire() for _ in range(4)]
        assert await run(PING, links[-1].gateway, namespace=links[-1].namespace) == str(links[-1].gateway)
        assert helper.pid is None
