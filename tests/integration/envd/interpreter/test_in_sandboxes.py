"""The interpreter inside real sandboxes, through the real proxy, hostile code included."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import SandboxException, TimeoutException
from e2b_code_interpreter import Sandbox

from support.images import builtin_templates
from support.service import Service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of our own."""
    templates = tmp_path_factory.mktemp("images") / "templates"
    builtin_templates(templates)
    service = Service(tmp_path_factory.mktemp("service"), templates, 2)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[Sandbox]:
    """A sandbox that the tests share."""
    with Sandbox.create(**service.client) as sandbox:
        yield sandbox


def test_kernels_run_as_the_user_at_home(sandbox: Sandbox) -> None:
    assert sandbox.run_code("import os\nos.getuid(), os.getcwd()").text == "(1000, '/home/user')"
    assert sandbox.run_code("!sudo id -u").logs.stdout == ["0\n"]


def test_all_languages(sandbox: Sandbox) -> None:
    assert sandbox.run_code("id -un; pwd", language="bash").logs.stdout == ["user\n/home/user\n"]
    assert sandbox.run_code("[1, 2].map((x) => x * 2)", language="js").results[0].json == [2, 4]
    assert {context.language for context in sandbox.list_code_contexts()} == {"python", "javascript", "bash"}


def test_chart_and_table(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.bar(['a'], [2])\nplt.title('T')\nplt.show()"
    (figure,) = sandbox.run_code(code).results
    assert figure.png
    assert figure.chart is not None
    assert figure.chart.title == "T"
    (table,) = sandbox.run_code("import pandas as pd\npd.DataFrame({'n': [1, 2]})").results
    assert table.data == {"n": [1, 2]}


def test_timeout_interrupts_through_the_proxy(sandbox: Sandbox) -> None:
    sandbox.run_code("x = 1")
    with pytest.raises(TimeoutException):
        sandbox.run_code("import time\ntime.sleep(60)\nx = 2", timeout=1)
    begin = time.monotonic()
    assert sandbox.run_code("x").text == "1"
    assert time.monotonic() - begin < 10


def test_contexts_are_cheap(sandbox: Sandbox) -> None:
    contexts = [sandbox.create_code_context() for _ in range(5)]
    for number, context in enumerate(contexts):
        sandbox.run_code(f"me = {number}", context=context)
    assert [sandbox.run_code("me", context=context).text for context in contexts] == list("01234")
    for context in contexts:
        sandbox.remove_code_context(context)


def test_state_outlives_a_pause(service: Service) -> None:
    sandbox = Sandbox.create(**service.client)
    try:
        sandbox.run_code("x = 'kept'")
        sandbox.pause()
        sandbox = sandbox.connect()
        assert sandbox.run_code("x").text == "kept"
    finally:
        sandbox.kill()


def test_killed_sandbox_ends_the_execution(service: Service) -> None:
    sandbox = Sandbox.create(**service.client)
    printed = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        code = "import time\nprint('go')\ntime.sleep(60)"
        running = pool.submit(sandbox.run_code, code, on_stdout=lambda _: printed.set())
        assert printed.wait(30)
        sandbox.kill()
        with pytest.raises(TimeoutException, match="was killed"):
            running.result(20)


FLOOD = """
import os
for fd in range(200, 220):
    try:
        for _ in range(300):
            os.write(fd, b"x" * 65536)
    except OSError:
        pass
"""

FORGERY = r"""
import os
for fd in range(200, 220):
    try:
        os.write(fd, b'{"type":"result","main":1,"data":[]}\n\xff\n[]\n{"type":"done","id":-1}\n')
    except OSError:
        pass
"""

FORK_BOMB = """
import os, time
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("code", [FLOOD, FORGERY])
def test_garbage_on_the_protocol_harms_only_the_sandbox(service: Service, sandbox: Sandbox, code: str) -> None:
    with Sandbox.create(**service.client) as hostile:
        hostile.run_code(code, timeout=20)
        assert hostile.run_code("'recovered'", timeout=20).text == "recovered"
    assert sandbox.run_code("1").text == "1"


def test_out_of_memory_ends_the_kernel_only(service: Service) -> None:
    with Sandbox.create(**service.client) as sandbox:
        error = sandbox.run_code("x = bytearray(8 << 30)\nx[::4096] = b'1' * len(x[::4096])", timeout=60).error
        assert error is not None
        assert error.name in ("UnexpectedEndOfExecution", "MemoryError")
        assert sandbox.run_code("1").text == "1"


def test_fork_bomb_is_contained(service: Service, sandbox: Sandbox) -> None:
    with Sandbox.create(**service.client) as hostile:
        hostile.run_code(FORK_BOMB, timeout=30)
        assert sandbox.run_code("1").text == "1"


def test_image_without_ipython_says_so(service: Service) -> None:
    with Sandbox.create("base", **service.client) as sandbox:
        with pytest.raises(SandboxException, match="lacks IPython"):
            sandbox.run_code("1")
        assert sandbox.run_code("echo shell", language="bash").logs.stdout == ["shell\n"]
