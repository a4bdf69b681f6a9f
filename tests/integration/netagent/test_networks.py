"""Networks for other processes: asked for at once, cancelled, released, kept over restarts, made again."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.model.errors import Conflict, CubeError, HostError, InvalidInput, KeyReused, SandboxNotFound
from cube.netagent.networks.creations import ConcurrentCreationFailed
from cube.netagent.networks.state import Kind, Network, Wanted
from cube.netagent.policies import Policies
from support.descriptors import open_fds
from support.networks import Ground, agent_settings, running, wanted

pytestmark = pytest.mark.root

_KINDS = (Kind.TAP, Kind.VETH)


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with running(agent_settings(tmp_path)) as made:
        yield made


async def nothing_left(ground: Ground) -> None:
    """No policy, no state file, no link beside those of the pools, and no descriptor of one that was given back."""
    assert ground.networks.all() == []
    assert ground.agent.attachments() == []
    assert ground.files == []
    stock = Policies(ground.settings.instance)
    stock.open()
    try:
        assert stock.addresses() == set()
    finally:
        stock.close()
    pools = ground.agent.taps, ground.agent.veths
    assert await poll_until(lambda: len(ground.interfaces) == sum(pool.ready for pool in pools), 30)


def take_away(interface: str) -> None:
    subprocess.run(["ip", "link", "delete", interface], check=True)


@pytest.mark.parametrize("kind", _KINDS)
async def test_n3_the_same_network_for_all_who_ask_at_once(ground: Ground, kind: Kind) -> None:
    found = await asyncio.gather(*(ground.networks.ensure(wanted("one", kind)) for _ in range(64)))
    assert {id(network) for network in found} == {id(found[0])}
    assert [one.sandbox_id for one in ground.agent.attachments()] == ["one"]
    await asyncio.gather(*(ground.networks.release("one") for _ in range(64)))
    await nothing_left(ground)


async def test_n3_release_waits_for_a_creation_that_is_under_way(ground: Ground) -> None:
    creating = asyncio.create_task(ground.networks.ensure(wanted("one")))
    await asyncio.sleep(0)
    await ground.networks.release("one")
    assert creating.done()
    await nothing_left(ground)


async def test_n3_an_ensure_during_a_release_makes_a_new_one(ground: Ground) -> None:
    first = await ground.networks.ensure(wanted("one"))
    releasing = asyncio.create_task(ground.networks.release("one"))
    await asyncio.sleep(0)
    second = await ground.networks.ensure(wanted("one"))
    assert releasing.done()
    assert second is not first
    assert ground.networks.get("one") is second
    await ground.networks.release("one")
    await nothing_left(ground)


async def test_n3_who_waits_for_a_creation_that_fails_is_told_so(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*arguments: object) -> None:
        await asyncio.sleep(0.05)
        raise HostError("the kernel refused it")

    monkeypatch.setattr(ground.agent, "attach", refuse)
    tasks = [asyncio.create_task(ground.networks.ensure(wanted("one"))) for _ in range(3)]
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [HostError, ConcurrentCreationFailed, ConcurrentCreationFailed]
    assert str(errors[1]) == "concurrent network creation for sandbox one failed"
    monkeypatch.undo()
    await nothing_left(ground)
    assert (await ground.networks.ensure(wanted("one"))).interface


async def test_n3_a_cancelled_creation_leaves_nothing_and_one_that_others_wait_for_goes_on(ground: Ground) -> None:
    alone = asyncio.create_task(ground.networks.ensure(wanted("alone")))
    first, second = (asyncio.create_task(ground.networks.ensure(wanted("both"))) for _ in range(2))
    await asyncio.sleep(0.001)
    alone.cancel()
    first.cancel()
    results = await asyncio.gather(alone, first, second, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert isinstance(results[2], Network)
    # It may have been there already when it was cancelled; then it is known, and can be released.
    await ground.networks.release("alone")
    await ground.networks.release("both")
    await nothing_left(ground)


async def test_n3_a_release_that_fails_leaves_the_network_there(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await ground.networks.ensure(wanted("one"))

    async def refuse(sandbox_id: str) -> None:
        raise HostError("the kernel refused it")

    with monkeypatch.context() as patched:
        patched.setattr(ground.agent, "release", refuse)
        with pytest.raises(HostError):
            await ground.networks.release("one")
    assert ground.networks.get("one") is network
    await ground.networks.release("one")
    await nothing_left(ground)


async def test_n5_sixty_four_at_once_on_eight_sandboxes_leak_nothing(ground: Ground) -> None:
    """Ensured, released and cancelled at random; no error but the one that says that somebody else's failed."""
    dice = random.Random(5)
    descriptors = len(open_fds())
    errors: list[BaseException] = []

    async def once(sandbox_id: str, kind: Kind) -> None:
        try:
            if dice.random() < 0.5:
                await ground.networks.ensure(wanted(sandbox_id, kind))
            else:
                await ground.networks.release(sandbox_id)
        except ConcurrentCreationFailed:
            pass
        except CubeError as error:
            errors.append(error)

    async def worker() -> None:
        for _ in range(12):
            number = dice.randrange(8)
            task = asyncio.create_task(once(f"box{number}", _KINDS[number % 2]))
            if dice.random() < 0.25:
                await asyncio.sleep(dice.random() * 0.004)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    await asyncio.gather(*(worker() for _ in range(64)))
    assert errors == []
    await asyncio.gather(*(ground.networks.release(f"box{number}") for number in range(8)))
    await nothing_left(ground)
    ready = ground.agent.taps.ready + ground.agent.veths.ready
    assert len(open_fds()) <= descriptors + ready + 8


async def test_asking_again_gives_the_same_and_asking_for_another_is_refused(ground: Ground) -> None:
    first = await ground.networks.ensure(wanted("one", key="k1", deny_out=["0.0.0.0/0"]))
    assert await ground.networks.ensure(wanted("one", key="k1", deny_out=["0.0.0.0/0"])) is first
    with pytest.raises(KeyReused):
        await ground.networks.ensure(wanted("one", key="k2", deny_out=["0.0.0.0/0"]))
    with pytest.raises(Conflict, match="another network"):
        await ground.networks.ensure(wanted("one", key="k1"))
    with pytest.raises(SandboxNotFound):
        ground.networks.get("two")
    await ground.networks.release("two")


@pytest.mark.parametrize("sandbox_id", ["", "..", "a/b", "-a", "a" * 65])
async def test_ids_that_are_none_are_refused(ground: Ground, sandbox_id: str) -> None:
    with pytest.raises(InvalidInput):
        await ground.networks.ensure(wanted(sandbox_id))
    with pytest.raises(InvalidInput):
        await ground.networks.release(sandbox_id)


async def test_no_credential_comes_into_a_state_file(ground: Ground) -> None:
    inject = [{"header": "authorization", "secret": "s3cret"}]
    rule = {"match": {"host": "a.test"}, "action": {"allow": True, "inject": inject}}
    with pytest.raises(InvalidInput, match="inject"):
        await ground.networks.ensure(wanted("one", rules=[rule]))
    transform = {"a.test": [{"transform": {"headers": {"authorization": "s3cret"}}}]}
    with pytest.raises(InvalidInput, match="inject"):
        await ground.networks.ensure(wanted("one", rules=transform))
    await nothing_left(ground)


async def test_a_sandbox_of_the_node_is_shown_and_not_touched(ground: Ground) -> None:
    await ground.agent.veths.start()
    link = await ground.agent.veths.acquire()
    await ground.agent.attach("own", link, wanted("own").config)
    assert [one.sandbox_id for one in ground.networks.of_the_node()] == ["own"]
    with pytest.raises(Conflict, match="of this node"):
        await ground.networks.ensure(wanted("own", Kind.VETH))
    with pytest.raises(Conflict, match="of this node"):
        await ground.networks.release("own")
    assert ground.agent.attachment("own").link is link


@pytest.mark.parametrize("kind", _KINDS)
async def test_networks_outlive_the_agent_with_name_address_and_policy(tmp_path: Path, kind: Kind) -> None:
    settings = agent_settings(tmp_path)
    request = wanted("one", kind, key="k", deny_out=["0.0.0.0/0"], allow_out=["203.0.113.9"])
    async with running(settings, remove=False) as ground:
        before = await ground.networks.ensure(request)
        address = ground.agent.attachment("one").address
    async with running(settings) as ground:
        after = await ground.networks.ensure(request)
        assert (after.interface, after.index, after.wanted) == (before.interface, before.index, before.wanted)
        assert ground.agent.attachment("one").address == address
        assert after.interface in ground.interfaces
        await ground.networks.release("one")
        await nothing_left(ground)
    assert ground.interfaces == set()


async def test_a_damaged_state_file_is_put_aside_and_the_others_are_taken_over(tmp_path: Path) -> None:
    settings = agent_settings(tmp_path)
    async with running(settings, remove=False) as ground:
        await ground.networks.ensure(wanted("one"))
        directory = settings.run_dir / "network" / "state"
        (directory / "two.json").write_text('{"sandbox_id": "two"')
        (directory / "three.json").write_text((directory / "one.json").read_text())
    async with running(settings) as ground:
        assert [one.wanted.sandbox_id for one in ground.networks.all()] == ["one"]
        assert ground.files == ["one.json", "three.damaged", "two.damaged"]


@pytest.mark.parametrize("kind", _KINDS)
async def test_a_link_that_somebody_takes_away_is_made_again(ground: Ground, kind: Kind) -> None:
    network = await ground.networks.ensure(wanted("one", kind))
    before = network.interface_index
    take_away(network.interface)
    assert network.interface not in ground.interfaces
    found = await ground.networks.reconcile()
    assert (found.renewed, found.quarantined) == (("one",), ())
    assert network.interface in ground.interfaces
    assert network.interface_index != before
    assert (await ground.networks.reconcile()).renewed == ()


async def test_what_cannot_be_made_again_is_quarantined_closed_and_can_be_released(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await ground.networks.ensure(wanted("one"))

    async def refuse(index: int) -> None:
        raise HostError("no TAP today")

    with monkeypatch.context() as patched:
        patched.setattr(ground.agent.taps, "renew", refuse)
        take_away(network.interface)
        for _ in range(2):
            assert (await ground.networks.reconcile()).quarantined == ()
        assert (await ground.networks.reconcile()).quarantined == ("one",)
    assert network.reason == "no TAP today"
    assert ground.agent.attachments() == []
    with pytest.raises(Conflict, match="quarantine"):
        await ground.networks.ensure(wanted("one"))
    with pytest.raises(Conflict, match="quarantine"):
        await ground.networks.file("one", network.interface)
    await ground.networks.release("one")
    await nothing_left(ground)


async def test_a_policy_is_replaced_and_written_down(tmp_path: Path) -> None:
    settings = agent_settings(tmp_path)
    closed = wanted("one", deny_out=["0.0.0.0/0"])
    async with running(settings, remove=False) as ground:
        await ground.networks.ensure(wanted("one"))
        await ground.networks.update("one", closed.config)
        assert ground.agent.attachment("one").network == closed.config
    async with running(settings) as ground:
        assert ground.agent.attachment("one").network == closed.config
        assert ground.networks.get("one").wanted == Wanted("one", Kind.TAP, closed.config)
