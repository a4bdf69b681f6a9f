"""The code interpreter."""

from __future__ import annotations

import base64

import pytest
from harness import Client, shows

TEMPLATE = "code-interpreter-v1"


@shows("Sandbox.run_code")
async def check_results_logs_and_errors(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        done = await sandbox.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
        assert (done.text, "".join(done.logs.stdout), "".join(done.logs.stderr)) == ("42", "out\n", "err\n")
        assert done.error is None
        failed = await sandbox.run_code("def f():\n    return 1 / 0\nf()")
        assert failed.error.name == "ZeroDivisionError"
        assert "return 1 / 0" in failed.error.traceback
        assert done.execution_count == 1
        assert failed.execution_count == 2


@shows("Sandbox.run_code")
async def check_callbacks(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        seen: dict[str, list[str]] = {"out": [], "err": [], "result": [], "error": []}
        await sandbox.run_code(
            "import sys\nprint('a')\nprint('b', file=sys.stderr)\ndisplay(1)\n1 / 0",
            on_stdout=lambda message: seen["out"].append(message.line),
            on_stderr=lambda message: seen["err"].append(message.line),
            on_result=lambda result: seen["result"].append(result.text),
            on_error=lambda error: seen["error"].append(error.name),
        )
        whole = {name: "".join(pieces) for name, pieces in seen.items()}
        assert whole == {"out": "a\n", "err": "b\n", "result": "1", "error": "ZeroDivisionError"}


@shows("Sandbox.run_code")
async def check_formats(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('T')\nplt.show()"
        (figure,) = (await sandbox.run_code(code)).results
        assert base64.b64decode(figure.png).startswith(b"\x89PNG")
        assert (figure.chart.title, figure.chart.type.value) == ("T", "bar")
        (table,) = (await sandbox.run_code("import pandas as pd\npd.DataFrame({'n': [1, 2]})")).results
        assert table.data == {"n": [1, 2]}
        assert "<table" in table.html
        code = (
            "from IPython.display import HTML, Markdown, Latex, SVG, JSON, Javascript\n"
            "display(HTML('<b>h</b>'), Markdown('# m'), Latex('$l$'), SVG('<svg></svg>'), JSON({'j': 1}), "
            "Javascript('s'))"
        )
        formats = [list(result.formats()) for result in (await sandbox.run_code(code)).results]
        for wanted, found in zip(("html", "markdown", "latex", "svg", "json", "javascript"), formats, strict=True):
            assert wanted in found


@shows("Sandbox.run_code")
async def check_environment(client: Client) -> None:
    async with client.sandbox(TEMPLATE, envs={"WHO": "sandbox"}) as sandbox:
        code = "import os\nos.environ['WHO']"
        assert (await sandbox.run_code(code)).text == "sandbox"
        assert (await sandbox.run_code(code, envs={"WHO": "call"})).text == "call"
        assert (await sandbox.run_code(code)).text == "sandbox"


@shows("Sandbox.run_code")
async def check_languages(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        assert (await sandbox.run_code("echo $((6*7))", language="bash")).logs.stdout[0].startswith("42")
        assert (await sandbox.run_code("[1, 2].map((x) => x * 2)", language="js")).results[0].json == [2, 4]
        typed = await sandbox.run_code("const n: number = 21; n * 2", language="ts")
        assert typed.text == "42"
        with pytest.raises(client.types.SandboxException, match="klingon"):
            await sandbox.run_code("nuqneH", language="klingon")


@shows("Sandbox.run_code")
async def check_a_timeout_interrupts(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        await sandbox.run_code("x = 1")
        with pytest.raises(client.types.TimeoutException):
            await sandbox.run_code("import time\ntime.sleep(600)\nx = 2", timeout=1)
        assert (await sandbox.run_code("x")).text == "1"


@shows("Sandbox.create_code_context Sandbox.run_code Sandbox.list_code_contexts")
async def check_contexts(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        context = await sandbox.create_code_context(cwd="/tmp", language="python")
        await sandbox.run_code("x = 'mine'", context=context)
        assert (await sandbox.run_code("import os\n(x, os.getcwd())", context=context)).text == "('mine', '/tmp')"
        assert (await sandbox.run_code("x")).error.name == "NameError"
        listed = await sandbox.list_code_contexts()
        assert listed[-1].id == context.id
        assert {"python", "javascript"} <= {item.language for item in listed}


@shows("Sandbox.restart_code_context Sandbox.remove_code_context")
async def check_restarting_and_removing_contexts(client: Client) -> None:
    async with client.sandbox(TEMPLATE) as sandbox:
        context = await sandbox.create_code_context()
        await sandbox.run_code("x = 1", context=context)
        await sandbox.restart_code_context(context)
        assert (await sandbox.run_code("x", context=context)).error.name == "NameError"
        await sandbox.remove_code_context(context.id)
        with pytest.raises(client.types.NotFoundException):
            await sandbox.run_code("1", context=context)
        with pytest.raises(client.types.SandboxException):
            await sandbox.restart_code_context(context)
