"""R and Java through the real client, where this machine has them."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable

import pytest
from e2b import SandboxException, TimeoutException
from e2b_code_interpreter import Execution, Sandbox

from integration.envd.interpreter.conftest import Node

needs_r = pytest.mark.skipif(shutil.which("R") is None, reason="this machine has no R")
needs_java = pytest.mark.skipif(shutil.which("jshell") is None, reason="this machine has no jshell")

Run = Callable[..., Execution]


@pytest.fixture
def r(client: Sandbox) -> Run:
    def run(code: str, **options: object) -> Execution:
        return client.run_code(code, language="r", **options)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.fixture
def java(client: Sandbox) -> Run:
    def run(code: str, **options: object) -> Execution:
        return client.run_code(code, language="java", **options)  # type: ignore[call-overload, no-any-return]

    return run


@needs_r
def test_r_values_and_state(r: Run) -> None:
    assert r("x <- 5; f <- function(n) n + x").results == []
    execution = r("f(1)\nf(2)")
    assert [(result.text, result.is_main_result) for result in execution.results] == [("[1] 6", False), ("[1] 7", True)]
    logs = r("cat('out\\n'); message('err')").logs
    assert (logs.stdout, logs.stderr) == (["out\n"], ["err\n"])
    assert r("invisible(3)").results == []
    assert r("'\u00e4 \"q\" \\\\ \\n'").text is not None


@needs_r
def test_r_tables_and_plots(r: Run) -> None:
    (table,) = r("data.frame(n = c(1, NA), s = c('a<b', 'c'), l = c(TRUE, NA))").results
    assert table.data == {"n": [1, None], "s": ["a<b", "c"], "l": [True, None]}
    assert "a&lt;b" in table.html
    pictures = r("plot(1:3)\nhist(c(1, 2, 2))").results
    assert [base64.b64decode(result.png)[:4] for result in pictures] == [b"\x89PNG"] * 2
    assert r("1").text == "[1] 1"


@needs_r
def test_r_errors(r: Run) -> None:
    error = r("g <- function() stop('no \"way\"'); g()").error
    assert error is not None
    assert (error.name, error.value) == ("simpleError", 'no "way"')
    assert "g()" in error.traceback
    error = r("x <- (").error
    assert error is not None
    assert error.name == "ParseError"
    error = r("y <- 1; quit(status = 3)").error
    assert error is not None
    assert (error.name, error.value) == ("ProcessExit", "3")
    assert r("exists('y')").text == "[1] FALSE"


@needs_r
def test_r_environment_and_directory(client: Sandbox, r: Run) -> None:
    value = 'it\'s "q"\n$x\\'
    assert r("cat(Sys.getenv('ONCE'))", envs={"ONCE": value}).logs.stdout == [value]
    assert r("cat(Sys.getenv('ONCE', 'gone'), Sys.getenv('FROM_SANDBOX'))").logs.stdout == ["gone yes"]
    context = client.create_code_context(cwd="/usr", language="r")
    assert client.run_code("getwd()", context=context).text == '[1] "/usr"'
    client.run_code("z <- 1", context=context)
    client.restart_code_context(context)
    assert client.run_code("exists('z')", context=context).text == "[1] FALSE"


@needs_r
@pytest.mark.parametrize("code", ["repeat {}", "Sys.sleep(60)"])
def test_r_interrupt_keeps_the_state(r: Run, code: str) -> None:
    r("x <- 1")
    with pytest.raises(TimeoutException):
        r(code, timeout=1)
    assert r("x").text == "[1] 1"


@needs_r
def test_r_hostile_output(r: Run) -> None:
    assert len("".join(r("for (i in 1:20000) cat('line\\n')").logs.stdout)) == 100_000
    assert r("writeBin(as.raw(c(255, 1, 27)), pipe('cat', 'wb')); '\\033[31m\\001'").error is None
    for number in range(200, 215):
        forged = '{"type":"done"}\\n[]\\n{"type":"result","data":7}\\n'
        r(f"try(cat('{forged}', file = '/dev/fd/{number}'), silent = TRUE)", timeout=20)
    assert r("1 + 1", timeout=20).text == "[1] 2"


@needs_java
def test_java_values_and_state(java: Run) -> None:
    assert java("int x = 5;\nint twice(int n) {\n  return 2 * n;\n}\nrecord P(int a) {}").error is None
    assert java("twice(x)").text == "10"
    assert java('String s = "t"; s + new P(1)').text == "tP[a=1]"
    assert java("List.of(3, 1).stream().sorted().collect(Collectors.toList())").text == "[1, 3]"
    logs = java('System.out.println("out \u00e4"); System.err.println("err");').logs
    assert (logs.stdout, logs.stderr) == (["out \u00e4\n"], ["err\n"])


@needs_java
def test_java_errors(java: Run) -> None:
    error = java('throw new IllegalStateException("no \\"way\\"");').error
    assert error is not None
    assert (error.name, error.value) == ("IllegalStateException", 'no "way"')
    error = java("int y = nope;").error
    assert error is not None
    assert error.name == "CompilationError"
    assert "cannot find symbol" in error.value
    error = java("int f() {").error
    assert error is not None
    assert error.name == "SyntaxError"
    error = java("System.exit(3);").error
    assert error is not None
    assert (error.name, error.value) == ("ProcessExit", "3")
    assert java("1").text == "1"


@needs_java
def test_java_environment_and_directory(client: Sandbox, java: Run) -> None:
    value = 'it\'s "q"\n=x'
    execution = java('System.out.print(System.getenv("ONCE"))', envs={"ONCE": value})
    assert execution.error is None
    assert execution.logs.stdout == [value]
    assert java('System.getenv("ONCE") + System.getenv("FROM_SANDBOX")').text == "nullyes"
    context = client.create_code_context(cwd="/usr", language="java")
    assert client.run_code('Path.of("").toAbsolutePath()', context=context).text == "/usr"


@needs_java
@pytest.mark.parametrize("code", ["while (true) {}", "Thread.sleep(60000)"])
def test_java_interrupt_keeps_the_state(java: Run, code: str) -> None:
    java("int x = 1;")
    with pytest.raises(TimeoutException):
        java(code, timeout=2)
    assert java("x").text == "1"


@needs_java
def test_java_hostile_output(java: Run) -> None:
    code = 'for (int i = 0; i < 20000; i++) System.out.println("line"); System.out.write(255); System.out.write(27);'
    assert len("".join(java(code).logs.stdout)) == 100_002
    forged = '"{\\"type\\":\\"done\\"}\\n[]\\n{\\"type\\":\\"result\\",\\"data\\":7}\\n"'
    loop = 'for (int i = 200; i < 215; i++) try (var file = new FileOutputStream("/dev/fd/" + i)) {'
    assert java(loop + f"file.write({forged}.getBytes()); }} catch (IOException e) {{}}", timeout=20).error is None
    assert java("1 + 1", timeout=20).text == "2"


@pytest.mark.parametrize(("language", "package"), [("r", "r-base-core"), ("java", "jdk")])
def test_an_image_without_the_language_says_what_is_missing(node: Node, language: str, package: str) -> None:
    bare = {"PATH": node.sandbox.image.env["PATH"].split(":")[0] + ":/bare"}
    object.__setattr__(node.sandbox, "env_vars", bare)
    with pytest.raises(SandboxException, match=rf"400.*{package}"):
        node.client().run_code("1", language=language)
