"""What a second host finds in a guest: processes and contexts go on, everything else is let go of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.envd import survival
from cube.envd.guest import ExitStatus, GuestProcess, SpawnRequest
from cube.envd.interpreter import handover, prewarm
from cube.envd.interpreter.contexts import Context, interpreter_of
from cube.envd.interpreter.events import Event, Failed, Shown, Text
from cube.envd.interpreter.kernel import Cell
from cube.envd.interpreter.languages import Language
from cube.envd.process import survivors
from cube.envd.process.managed import ProcessSpec
from cube.envd.process.processes import table_of
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import HostError, NotFound, Unsupported
from cube.model.template import ImageConfig
from support.envd_server import make_sandbox
from support.inside_sandbox import read_to_end, release
from support.local_guest import LocalGuest
from support.relay_ground import RelayGround, identity

SPEC = ProcessSpec("sh", ("-c", "…"), (("A", "1"),), cwd="/", tag="server", stdin=True)


async def start(guest: MicroVMGuest, script: str) -> GuestProcess:
    return await guest.spawn(SpawnRequest(("sh", "-c", script), "root", stdin=True))


@asynccontextmanager
async def second(ground: RelayGround) -> AsyncIterator[MicroVMGuest]:
    guest = await MicroVMGuest.connect(ground.path, "sbx2")
    await guest.identify(identity(2))
    yield guest
    await guest.close()


class TestProcesses:
    async def test_one_that_runs_is_taken_up_with_what_it_was_asked(
        self, guest: MicroVMGuest, ground: RelayGround
    ) -> None:
        process = await start(guest, "read line; echo got $line; exit 4")
        survivors.keep(make_sandbox(guest), SPEC, process)
        await guest.ping()
        await guest.close()
        release(process)
        async with second(ground) as other:
            sandbox = make_sandbox(other, "sbx2")
            await survival.take_up(sandbox)
            (found,) = table_of(sandbox).live()
            assert (found.pid, found.spec) == (process.pid, SPEC)
            with found.subscribe() as subscription:
                await found.write_stdin(b"word\n")
                while (output := subscription.peek()) is None:
                    await subscription.wakeup.wait(20)
                assert output[1] == b"got word\n"
                subscription.delivered(len(output[1]))
                while not found.ended:
                    await subscription.wakeup.wait(20)
            assert found.exit == ExitStatus(4)
            await table_of(sandbox).close()

    async def test_output_that_nobody_has_read_is_not_lost(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        process = await start(guest, "seq 20000; exit 0")
        await guest.close()
        release(process)
        async with second(ground) as other:
            taken = await other.take_up(process.pid)
            output = await asyncio.to_thread(read_to_end, taken.stdout)
            assert output.endswith("\n20000\n")
            assert await taken.wait() == ExitStatus(0)
            release(taken)

    async def test_one_that_nobody_wants_loses_its_pipes(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        process = await start(guest, "cat; echo over > /dev/null; exit 3")
        await guest.close()
        release(process)
        async with second(ground) as other:
            waiting = await other.take_up(process.pid)
            os.close(waiting.stdout or -1)
            os.close(waiting.stderr or -1)
            os.close(waiting.stdin or -1)
            assert await asyncio.wait_for(waiting.wait(), 20) == ExitStatus(3)
            with pytest.raises(NotFound):
                await other.take_up(4_000_000)

    async def test_the_rest_is_let_go_of(self, guest: MicroVMGuest, ground: RelayGround) -> None:
        process = await start(guest, "cat > /dev/null; exit 3")
        await guest.close()
        release(process)
        async with second(ground) as other:
            assert [one.pid for one in await other.survivors()] == [process.pid]
            await survival.take_up(make_sandbox(other, "sbx2"))
            async with asyncio.timeout(20):
                while Path(f"/proc/{process.pid}").exists():  # noqa: ASYNC110, ASYNC240
                    await asyncio.sleep(0.02)


class Warm:
    """A sandbox around a guest, and its default Python context."""

    def __init__(self, guest: MicroVMGuest, env: dict[str, str], **changes: object) -> None:
        self.sandbox: EnvdSandbox = make_sandbox(
            guest, default_user="root", image=ImageConfig(env=env), default_workdir="/tmp", **changes
        )

    @property
    def context(self) -> Context:
        return interpreter_of(self.sandbox).default(Language.PYTHON)

    async def run(self, code: str, context: Context | None = None) -> str:
        events: list[Event] = []

        async def sink(batch: list[Event]) -> None:
            events.extend(batch)

        await (context or self.context).run(Cell(code), sink)
        assert not [event for event in events if isinstance(event, Failed)], events
        shown = [event.data["text/plain"] for event in events if isinstance(event, Shown)]
        return "".join([event.text for event in events if isinstance(event, Text)] + shown)


@pytest.fixture
def env(kernel_env: Path) -> dict[str, str]:
    return {"PATH": f"{kernel_env}/bin:/usr/local/bin:/usr/bin:/bin"}


class TestContexts:
    async def test_a_warm_context_goes_on(self, guest: MicroVMGuest, ground: RelayGround, env: dict[str, str]) -> None:
        first = Warm(guest, env)
        await prewarm(first.sandbox)
        await first.run("x = 41; import os")
        other = await interpreter_of(first.sandbox).create(Language.PYTHON, "/usr")
        await first.run("y = 'other'", other)
        bash = interpreter_of(first.sandbox).default(Language.BASH)
        await first.run("z=kept", bash)
        description = orjson.loads(orjson.dumps(handover.describe(first.sandbox)))
        await guest.close()
        await interpreter_of(first.sandbox).close()
        async with second(ground) as guest_2:
            clone = Warm(guest_2, env, env_vars={"NEW": "value"})
            await survival.take_up(clone.sandbox, description)
            assert clone.context.id == first.context.id
            assert await clone.run("x + 1") == "42"
            assert await clone.run("os.environ['NEW']") == "'value'"
            again = interpreter_of(clone.sandbox).get(other.id)
            assert await clone.run("y", again) == "'other'"
            assert await clone.run("echo $z $NEW", interpreter_of(clone.sandbox).get(bash.id)) == "kept value\n"
            fresh = await interpreter_of(clone.sandbox).create(Language.PYTHON, "")
            assert await clone.run("import os; os.environ['NEW']", fresh) == "'value'"
            await interpreter_of(clone.sandbox).close()

    async def test_a_cell_that_was_running_is_interrupted_and_its_state_stays(
        self, guest: MicroVMGuest, ground: RelayGround, env: dict[str, str]
    ) -> None:
        first = Warm(guest, env)
        await first.run("x = 1")
        begun = asyncio.Event()

        async def sink(batch: list[Event]) -> None:
            if any(isinstance(event, Text) for event in batch):
                begun.set()

        code = "import time\nx = 2\nprint('begun')\nwhile True: time.sleep(0.01)"
        running = asyncio.create_task(first.context.run(Cell(code), sink))
        await begun.wait()
        description = handover.describe(first.sandbox)
        guest._link.detach()
        running.cancel()
        await asyncio.wait([running])
        await guest.close()
        await interpreter_of(first.sandbox).close()
        async with second(ground) as guest_2:
            clone = Warm(guest_2, env)
            await survival.take_up(clone.sandbox, description)
            assert await clone.run("x") == "2"
            await interpreter_of(clone.sandbox).close()

    async def test_a_kernel_that_is_gone_is_started_again(
        self, guest: MicroVMGuest, ground: RelayGround, env: dict[str, str]
    ) -> None:
        first = Warm(guest, env)
        await first.run("x = 1")
        description = handover.describe(first.sandbox)
        await interpreter_of(first.sandbox).close()
        await guest.close()
        async with second(ground) as guest_2:
            clone = Warm(guest_2, env)
            await survival.take_up(clone.sandbox, description)
            assert await clone.run("'x' in globals()") == "False"
            await interpreter_of(clone.sandbox).close()

    async def test_a_description_of_something_else_is_refused(self, guest: MicroVMGuest, env: dict[str, str]) -> None:
        with pytest.raises(HostError, match="version"):
            await handover.take_up(Warm(guest, env).sandbox, {"contexts": 5})

    async def test_other_sandboxes_cannot_be_described(self, tmp_path: Path) -> None:
        with pytest.raises(Unsupported):
            handover.describe(make_sandbox(LocalGuest(tmp_path)))
