"""bash and JavaScript through the real client."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from e2b import SandboxException, TimeoutException
from e2b_code_interpreter import Execution, Sandbox

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="this machine has no node")


def bash(client: Sandbox, code: str, **options: object) -> Execution:
    return client.run_code(code, language="bash", **options)  # type: ignore[call-overload, no-any-return]


def node(client: Sandbox, code: str, **options: object) -> Execution:
    return client.run_code(code, language="javascript", **options)  # type: ignore[call-overload, no-any-return]


def test_bash_keeps_its_state(client: Sandbox) -> None:
    assert bash(client, "x=5; cd /usr; f() { echo f$1; }").error is None
    assert bash(client, "echo $x $PWD; f 2; echo err >&2").logs.stdout == ["5 /usr\nf2\n"]


@pytest.mark.parametrize(("code", "status"), [("false", "1"), ("(exit 7)", "7"), ("if then", "2"), ("exit 3", "3")])
def test_bash_failure_is_an_error(client: Sandbox, code: str, status: str) -> None:
    error = bash(client, code).error
    assert error is not None
    assert (error.name, error.value) == ("ExitCode", status)
    assert bash(client, "echo next").logs.stdout == ["next\n"]


def test_bash_environment_of_one_execution(client: Sandbox) -> None:
    value = 'it\'s "q"\n$x'
    assert bash(client, 'printf %s "$ONCE"', envs={"ONCE": value}).logs.stdout == [value]
    assert bash(client, "echo [$ONCE$FROM_SANDBOX]").logs.stdout == ["[yes]\n"]


@pytest.mark.parametrize("code", ["sleep 60; x=2", "while :; do :; done; x=2", "y=$(sleep 60); x=2"])
def test_bash_interrupt_ends_the_cell_and_keeps_the_state(client: Sandbox, code: str) -> None:
    bash(client, "x=1")
    with pytest.raises(TimeoutException):
        bash(client, code, timeout=1)
    assert bash(client, "echo $x").logs.stdout == ["1\n"]


def test_bash_context_with_directory(client: Sandbox) -> None:
    context = client.create_code_context(cwd="/usr", language="bash")
    assert client.run_code("pwd", context=context).logs.stdout == ["/usr\n"]
    with pytest.raises(SandboxException, match="400"):
        client.create_code_context(cwd="/does/not/exist", language="bash")


@needs_node
def test_node_values_and_declarations(client: Sandbox) -> None:
    assert node(client, "const x = 1; let y = 2").results == []
    execution = node(client, "const x = 5; ({ sum: x + y })")
    assert execution.text == "{ sum: 7 }"
    assert execution.results[0].json == {"sum": 7}
    assert node(client, "'text'").text == "text"


@needs_node
def test_node_output(client: Sandbox) -> None:
    logs = node(client, "console.log('out', {a: 1}); console.error('err')").logs
    assert (logs.stdout, logs.stderr) == (["out { a: 1 }\n"], ["err\n"])


@needs_node
def test_node_await_and_imports(client: Sandbox) -> None:
    code = "import fs from 'fs'; import { join as j } from 'path'\nimport * as os from 'os'\n"
    assert node(client, code + "[typeof fs.statSync, j('a', 'b'), typeof os.EOL].join()").text == "function,a/b,string"
    assert node(client, "(await import('fs')).existsSync('/')").text == "true"
    assert node(client, "await new Promise((resolve) => setTimeout(() => resolve(3), 10))").text == "3"


@needs_node
def test_node_errors(client: Sandbox) -> None:
    error = node(client, "null.x").error
    assert error is not None
    assert error.name == "TypeError"
    assert "inspector" not in error.traceback
    error = node(client, "nope(").error
    assert error is not None
    assert error.name == "SyntaxError"


@needs_node
def test_node_exit_starts_afresh(client: Sandbox) -> None:
    error = node(client, "globalThis.x = 1; process.exit(3)").error
    assert error is not None
    assert (error.name, error.value) == ("ProcessExit", "3")
    assert node(client, "typeof x").text == "undefined"


@needs_node
def test_node_environment_of_one_execution(client: Sandbox) -> None:
    assert node(client, "process.env.ONCE", envs={"ONCE": "1"}).text == "1"
    assert node(client, "process.env.ONCE").results == []


@needs_node
@pytest.mark.parametrize("code", ["while (true) {}", "await new Promise(() => {})"])
def test_node_interrupt_keeps_the_state(client: Sandbox, code: str) -> None:
    node(client, "let x = 1")
    with pytest.raises(TimeoutException):
        node(client, code, timeout=1)
    assert node(client, "x").text == "1"


@needs_node
def test_typescript_or_a_clear_error(client: Sandbox) -> None:
    execution = client.run_code("let n: number = 3; n", language="typescript")
    version = subprocess.run(["node", "-p", "!!require('module').stripTypeScriptTypes"], capture_output=True, text=True)
    if version.stdout.strip() == "true":
        assert execution.text == "3"
    else:
        assert execution.error is not None
        assert "TypeScript needs Node" in execution.error.value
