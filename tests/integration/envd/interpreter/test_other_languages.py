"""bash and JavaScript through the real client."""

from __future__ import annotations

import shutil

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


def typescript(client: Sandbox, code: str, **options: object) -> Execution:
    return client.run_code(code, language="typescript", **options)  # type: ignore[call-overload, no-any-return]


@needs_node
def test_typescript(client: Sandbox) -> None:
    code = "import { join } from 'path'\nenum Color { Red = 3 }\ninterface Named { name: string }\nlet n: number = 3"
    assert typescript(client, code).error is None
    code = "const all = <T,>(items: T[]): T => items[0]; all<number>([n]) + Color.Red + await Promise.resolve(1)"
    assert typescript(client, code).text == "7"
    assert typescript(client, "join('a', 'b') satisfies string").text == "a/b"
    assert node(client, "n").text == "3"


@needs_node
def test_typescript_errors_and_contexts(client: Sandbox) -> None:
    error = typescript(client, "const x: = 3").error
    assert error is not None
    assert error.name == "SyntaxError"
    context = client.create_code_context(language="typescript")
    assert context.language == "typescript"
    assert client.run_code("const y: number = 4; y as number", context=context).text == "4"
    with pytest.raises(TimeoutException):
        client.run_code("while (true as boolean) {}", context=context, timeout=1)
    assert client.run_code("y!", context=context).text == "4"


@needs_node
def test_node_shows_what_values_say_of_themselves(client: Sandbox) -> None:
    code = """
class Shown {
  _toHtml() { return "<b>x</b>" }
  _toSvg() { return "<svg/>" }
  _toPng() { return "cG5n" }
  _toMime() { return { "application/pdf": "cGRm", "x/own": 1 } }
}
$$.html("<i>first</i>"); $$.markdown("# m"); $$.latex("$x$"); $$.jpeg("anBn"); $$.mime({"application/javascript": "1"});
display(new Shown());
({ a: [1, 2] })
"""
    results = node(client, code).results
    assert [result.html for result in results[:6]] == ["<i>first</i>", None, None, None, None, "<b>x</b>"]
    assert (results[1].markdown, results[2].latex, results[3].jpeg) == ("# m", "$x$", "anBn")
    assert results[4].javascript == "1"
    shown = results[5]
    assert (shown.svg, shown.png, shown.pdf, shown.extra) == ("<svg/>", "cG5n", "cGRm", {"x/own": 1})
    assert results[6].json == {"a": [1, 2]}
    assert results[6].is_main_result


@needs_node
def test_node_takes_modules_as_they_are_written(client: Sandbox) -> None:
    code = "export const a = 1\nexport default function f() { return a + 1 }\nexport class C {}\n"
    code += "export async function g() {}"
    assert node(client, code).error is None
    assert node(client, "[f(), typeof C, typeof g].join()").text == "2,function,function"


@needs_node
def test_node_results_of_any_size_and_kind(client: Sandbox) -> None:
    execution = node(client, "$$.html('x'.repeat(30_000_000))")
    assert "Too big to be sent" in "".join(execution.logs.stderr)
    assert node(client, "'\\u0000\\u001b[31m\\ud800'").error is None
    output = node(
        client, "process.stdout.write(Buffer.from([0, 255, 10])); for (let i = 0; i < 1e5; i++) console.log('y')"
    )
    assert len("".join(output.logs.stdout)) == 200_003
    forge = "for (let fd = 200; fd < 215; fd++) try { require('fs').writeFileSync('/dev/fd/' + fd, '%s') } catch {}"
    assert node(client, forge % '{"type":"done"}\\n[]\\n{"type":"result","data":7}\\n', timeout=20).error is None
    assert node(client, "'still here'").text == "still here"
