"""Contexts, queues, interrupts and deaths, through the real client where it can, else by hand."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import Callable

import httpx
import pytest
from e2b import NotFoundException, SandboxException, TimeoutException
from e2b_code_interpreter import Sandbox

from cube.envd.interpreter import contexts, execute, prewarm
from cube.envd.interpreter.contexts import interpreter_of
from support.descriptors import open_fds

from .conftest import Node

HEADERS = {"E2b-Sandbox-Id": "sbx", "E2b-Sandbox-Port": "49999"}


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or process is about to do."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_in_thread(client: Sandbox, code: str, **options: object) -> concurrent.futures.Future[object]:
    """Run code without waiting for it; the future resolves when the first output has arrived and ``run_code`` ended."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    started = threading.Event()
    future = pool.submit(client.run_code, code, on_stdout=lambda _: started.set(), **options)  # type: ignore[call-overload]
    assert started.wait(20)
    pool.shutdown(wait=False)
    return future


def test_default_contexts_are_listed(client: Sandbox) -> None:
    assert [context.language for context in client.list_code_contexts()] == ["python", "javascript"]


def test_contexts_have_state_and_directory_of_their_own(client: Sandbox) -> None:
    context = client.create_code_context(cwd="/usr")
    assert context.cwd == "/usr"
    assert client.list_code_contexts()[-1].id == context.id
    client.run_code("x = 1", context=context)
    assert client.run_code("import os\nos.getcwd()", context=context).text == "/usr"
    error = client.run_code("x").error
    assert error is not None
    assert error.name == "NameError"


@pytest.mark.parametrize("language", ["python", "bash"])
def test_home_is_the_directory_when_the_image_names_none(node: Node, client: Sandbox, language: str) -> None:
    node.sandbox.default_workdir = ""
    code = "print(__import__('os').getcwd())" if language == "python" else "pwd"
    home = [f"{node.guest.home}\n"]
    assert client.run_code(code, language=language).logs.stdout == home
    context = client.create_code_context(cwd="~", language=language)
    assert client.run_code(code, context=context).logs.stdout == home


def test_restart_keeps_the_id_and_drops_the_state(client: Sandbox) -> None:
    context = client.create_code_context()
    client.run_code("x = 1", context=context)
    client.restart_code_context(context)
    assert client.run_code("'x' in globals()", context=context).text == "False"


def test_removed_context_is_not_found(client: Sandbox) -> None:
    context = client.create_code_context()
    client.remove_code_context(context)
    with pytest.raises(NotFoundException):
        client.run_code("1", context=context)
    with pytest.raises(NotFoundException):
        client.remove_code_context(context)
    with pytest.raises(NotFoundException):
        client.restart_code_context(context)


def test_removed_default_context_is_made_anew(client: Sandbox) -> None:
    client.run_code("x = 1")
    client.remove_code_context(client.list_code_contexts()[0])
    assert client.run_code("'x' in globals()").text == "False"


def test_missing_directory_is_refused(client: Sandbox) -> None:
    with pytest.raises(SandboxException, match=r"400.*No such file"):
        client.create_code_context(cwd="/does/not/exist")
    assert len(client.list_code_contexts()) == 2


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", "code is missing"),
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"code": "1", "context_id": "a", "language": "python"}', "Only one of context_id or language"),
        (b'{"code": "1", "language": "cobol"}', "No kernel for language"),
        (b'{"code": 1}', "code is not a string"),
        (b'{"code": "1", "env_vars": {"A=": "1"}}', "cannot be set"),
    ],
)
def test_bad_requests(node: Node, body: bytes, text: str) -> None:
    response = httpx.post(f"{node.url}/execute", content=body, headers=HEADERS)
    assert response.status_code == 400
    assert text in response.text


def test_other_paths_are_not_found(node: Node) -> None:
    assert httpx.get(f"{node.url}/execute", headers=HEADERS).status_code == 404
    assert httpx.get(f"{node.url}/health", headers=HEADERS).json() == "OK"


def test_unknown_sandbox(node: Node) -> None:
    with pytest.raises(NotFoundException, match="was not found"):
        node.client("other").run_code("1")


def test_timeout_interrupts_the_cell_and_keeps_the_state(client: Sandbox) -> None:
    client.run_code("x = 1")
    with pytest.raises(TimeoutException):
        client.run_code("import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    x = 2", timeout=1)
    assert client.run_code("x").text == "2"


def test_cell_that_ignores_interrupts_is_replaced(client: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "SETTLE_SECONDS", 0.1)
    code = (
        "import time\nx = 1\nwhile True:\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt:\n        pass"
    )
    with pytest.raises(TimeoutException):
        client.run_code(code, timeout=1)
    assert client.run_code("'x' in globals()").text == "False"


def test_interrupt_while_output_is_blocked(client: Sandbox) -> None:
    """The cell prints more than anyone reads; its interrupt must not tear a line of the protocol."""
    with pytest.raises(TimeoutException):
        client.run_code("while True:\n    print('x' * 1000)", timeout=1, on_stdout=lambda _: None)
    assert client.run_code("'alive'").text == "alive"


def test_dead_kernel_is_reported_and_replaced(client: Sandbox) -> None:
    error = client.run_code("import os\nos._exit(1)").error
    assert error is not None
    assert error.name == "UnexpectedEndOfExecution"
    assert client.run_code("1").text == "1"


def test_dead_kernel_host_is_replaced(client: Sandbox) -> None:
    client.run_code("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nx = 1")
    assert client.run_code("x", context=client.create_code_context()).error is not None
    assert client.run_code("x").text == "1"


def test_executions_of_a_context_wait_for_each_other(client: Sandbox) -> None:
    first = run_in_thread(client, "import time\nprint('go')\ntime.sleep(0.3)\norder = ['first']")
    assert client.run_code("order + ['second']").text == "['first', 'second']"
    first.result(5)


def test_client_that_stops_waiting_leaves_the_queue(node: Node, client: Sandbox) -> None:
    first = run_in_thread(client, "import time\nprint('go')\ntime.sleep(1)\nran = []")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{node.url}/execute", json={"code": "ran.append('abandoned')"}, headers=HEADERS, timeout=0.3)
    assert client.run_code("ran").text == "[]"
    first.result(5)


def test_restart_ends_what_runs(client: Sandbox) -> None:
    context = client.create_code_context()
    running = run_in_thread(client, "import time\nprint('go')\ntime.sleep(60)", context=context)
    client.restart_code_context(context)
    error = running.result(10).error  # type: ignore[attr-defined]
    assert error.name == "ContextRestarting"


def test_removal_ends_what_runs(client: Sandbox) -> None:
    context = client.create_code_context()
    running = run_in_thread(client, "import time\nprint('go')\ntime.sleep(60)", context=context)
    client.remove_code_context(context)
    assert running.result(10).error is not None  # type: ignore[attr-defined]


def test_stopped_sandbox_cuts_the_response_off(node: Node, client: Sandbox) -> None:
    def stop() -> None:
        node.gone = True
        node.call(interpreter_of(node.sandbox).close)

    body = {"code": "import time\nprint('go')\ntime.sleep(60)"}
    with httpx.stream("POST", f"{node.url}/execute", json=body, headers=HEADERS) as response:
        lines = response.iter_lines()
        while "stdout" not in next(lines):
            pass
        stop()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


def test_silence_is_broken_by_keepalives(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "KEEPALIVE_SECONDS", 0.05)
    body = {"code": "import time\ntime.sleep(0.4)"}
    lines = httpx.post(f"{node.url}/execute", json=body, headers=HEADERS).text.splitlines()
    assert lines.count('{"type":"keepalive"}') >= 3
    assert lines[-1] == '{"type":"end_of_execution"}'
    assert all(lines)


def test_slow_client_holds_the_cell_back(node: Node, client: Sandbox) -> None:
    """What a client does not read stays in the sandbox: the cell cannot write more than the pipes and buffers hold."""
    client.run_code("n = 0")
    body = {"code": "for n in range(5000):\n    print('x' * 200_000)"}
    with httpx.stream("POST", f"{node.url}/execute", json=body, headers=HEADERS) as response:
        next(response.iter_raw())
        time.sleep(1)
    # When the client goes away what waits is let through, until the interrupt arrives: that is a small part of 1 GB.
    reached = int(client.run_code("n").text or "0")
    assert reached < 2500


def test_chatter_between_cells_is_dropped_and_blocks_nobody(client: Sandbox) -> None:
    code = "import threading\ndef chat():\n    for n in range(300):\n        print('x' * 10_000)\n    done.set()\n"
    client.run_code(f"{code}done = threading.Event()\nthreading.Thread(target=chat).start()")
    assert client.run_code("done.wait(20)").text == "True"


def test_prewarm_starts_the_default_context(node: Node) -> None:
    node.call(lambda: prewarm(node.sandbox))
    spawned = len(node.guest.processes)
    assert node.client().run_code("1").text == "1"
    assert len(node.guest.processes) == spawned


def test_many_contexts_are_refused(node: Node, client: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MAX_CONTEXTS", 3)
    client.create_code_context()
    with pytest.raises(SandboxException, match="429"):
        client.create_code_context()


def test_many_executions_are_refused(node: Node, client: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MAX_EXECUTIONS", 1)
    first = run_in_thread(client, "import time\nprint('go')\ntime.sleep(0.5)")
    response = httpx.post(f"{node.url}/execute", json={"code": "1"}, headers=HEADERS)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    first.result(5)
    eventually(lambda: httpx.post(f"{node.url}/execute", json={"code": "1"}, headers=HEADERS).status_code == 200)


def test_close_leaves_no_process_descriptor_or_task(node: Node, client: Sandbox) -> None:
    async def tasks() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks()}

    client.list_code_contexts()
    before, descriptors = node.call(tasks), len(open_fds())
    pids = [
        int(client.run_code("import os\nos.getpid()", context=client.create_code_context()).text or 0) for _ in "ab"
    ]
    client.run_code("1", language="bash")
    node.call(interpreter_of(node.sandbox).close)
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    eventually(lambda: all(process.popen.poll() is not None for process in node.guest.processes))
    eventually(lambda: len(open_fds()) <= descriptors)
    assert not {name for name in node.call(tasks) - before if name.startswith("kernel")}


def host_of(client: Sandbox) -> int:
    """The process that kernels are forked from."""
    return int(str(client.run_code("import os\nos.getppid()").text))


def test_variables_that_come_after_the_start_reach_kernels(node: Node, client: Sandbox) -> None:
    """A sandbox in stock is given its client's variables when it is handed out: its interpreter is loaded already."""
    node.call(lambda: prewarm(node.sandbox))
    host = host_of(client)
    node.sandbox.env_vars = {"FROM_CLIENT": "yes", "TZ": "Asia/Tokyo"}
    node.call(interpreter_of(node.sandbox).renew)
    shown = client.run_code("import os, time\n(os.environ['FROM_CLIENT'], time.tzname[0])").text
    assert shown == "('yes', 'JST')"
    assert client.run_code("!echo $FROM_CLIENT").logs.stdout == ["yes\n"]
    assert client.run_code("echo $FROM_CLIENT", language="bash").logs.stdout == ["yes\n"]
    assert host_of(client) == host, "the loaded interpreter is used on"


def test_variables_that_an_interpreter_reads_at_its_start_have_it_started_anew(node: Node, client: Sandbox) -> None:
    node.call(lambda: prewarm(node.sandbox))
    host = host_of(client)
    node.sandbox.env_vars = {"PYTHONHASHSEED": "0"}
    node.call(interpreter_of(node.sandbox).renew)
    assert client.run_code("import sys\nsys.flags.hash_randomization").text == "0"
    assert host_of(client) != host


def test_contexts_of_one_sandbox_share_no_randomness(client: Sandbox) -> None:
    """They are forked from one process."""
    draws = "random.random(), uuid.uuid4(), secrets.token_hex(), numpy.random.random()"
    code = f"import random, uuid, secrets, numpy\nprint({draws})"
    outputs = [client.run_code(code).logs.stdout]
    outputs += [client.run_code(code, context=client.create_code_context()).logs.stdout for _ in range(2)]
    values = [value for output in outputs for value in "".join(output).split()]
    assert len(set(values)) == len(values) == 12


def test_a_cell_that_awaits_finds_its_loop(client: Sandbox) -> None:
    """``asyncio`` is loaded by the first cell that needs it."""
    assert client.run_code("import sys\n'asyncio' in sys.modules").text == "False"
    assert client.run_code("import asyncio\nawait asyncio.sleep(0, 'slept')").text == "slept"
    client.run_code("task = asyncio.ensure_future(asyncio.sleep(0.01, 'later'))\nawait asyncio.sleep(0)")
    assert client.run_code("await task").text == "later"
