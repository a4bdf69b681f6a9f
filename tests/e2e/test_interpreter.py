"""The code interpreter's languages and formats, through the unmodified client in sandboxes of the real templates."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from e2b import SandboxException, TimeoutException
from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.charts import ChartType

from support.images import polyglot_template
from support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

#: See :class:`support.service.Service`.
_PART = 6
_IMPORTS = "import matplotlib.pyplot as plt\nimport numpy as np\nimport pandas as pd\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has the template with R and Java too."""
    templates = tmp_path_factory.mktemp("images") / "templates"
    polyglot_template(templates)
    service = Service(tmp_path_factory.mktemp("interpreter"), templates, _PART)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[Sandbox]:
    with Sandbox.create(**service.client) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def polyglot(service: Service) -> Iterator[Sandbox]:
    with Sandbox.create("code-interpreter-polyglot", **service.client) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("language", "code", "text"),
    [
        ("python", "sum(range(10))", "45"),
        ("javascript", "import { join } from 'path'; await Promise.resolve(join('a', 'b'))", "a/b"),
        ("typescript", "enum E { A = 7 }\nconst n: number = E.A; n", "7"),
    ],
)
def test_values(sandbox: Sandbox, language: str, code: str, text: str) -> None:
    execution = sandbox.run_code(code, language=language)
    assert execution.error is None
    assert execution.text == text


@pytest.mark.parametrize(
    ("language", "code", "text"),
    [("r", "sum(1:9)", "[1] 45"), ("java", "IntStream.range(0, 10).sum()", "45"), ("python", "1 + 1", "2")],
)
def test_values_of_languages_that_were_added(polyglot: Sandbox, language: str, code: str, text: str) -> None:
    execution = polyglot.run_code(code, language=language)
    assert execution.error is None
    assert execution.text == text


def test_r_draws_in_a_sandbox(polyglot: Sandbox) -> None:
    (result,) = polyglot.run_code("plot(1:3)", language="r").results
    assert base64.b64decode(result.png).startswith(b"\x89PNG")


@pytest.mark.parametrize(("language", "endless"), [("r", "repeat {}"), ("java", "while (true) {}")])
def test_interruption_through_the_proxy(polyglot: Sandbox, language: str, endless: str) -> None:
    context = polyglot.create_code_context(language=language, cwd="/tmp")
    with pytest.raises(TimeoutException):
        polyglot.run_code(endless, context=context, timeout=2)
    assert polyglot.run_code("1", context=context).text.endswith("1")
    polyglot.remove_code_context(context)


@pytest.mark.parametrize(("language", "package"), [("r", "r-base-core"), ("java", "openjdk")])
def test_what_the_image_lacks_is_named(sandbox: Sandbox, language: str, package: str) -> None:
    with pytest.raises(SandboxException, match=package):
        sandbox.run_code("1", language=language)


@pytest.mark.parametrize(
    ("mime", "value", "field"),
    [
        ("text/html", "<b>x</b>", "html"),
        ("text/markdown", "# x", "markdown"),
        ("image/svg+xml", "<svg/>", "svg"),
        ("image/png", "cG5n", "png"),
        ("image/jpeg", "anBn", "jpeg"),
        ("application/pdf", "cGRm", "pdf"),
        ("text/latex", "$x$", "latex"),
        ("application/json", {"a": [1, None]}, "json"),
        ("application/javascript", "alert(1)", "javascript"),
        ("e2b/data", {"a": [1]}, "data"),
    ],
)
def test_formats(sandbox: Sandbox, mime: str, value: object, field: str) -> None:
    code = f"from IPython.display import display\ndisplay({{{mime!r}: {value!r}, 'text/plain': 'x'}}, raw=True)"
    (result,) = sandbox.run_code(code).results
    assert getattr(result, field) == value
    assert field in result.formats()
    assert not result.is_main_result


def test_formats_of_libraries(sandbox: Sandbox) -> None:
    code = "from IPython.display import HTML, JSON, Latex, Markdown, SVG, Javascript, Math\n"
    shown = "display(HTML('<i>'), Latex('$a$'), Markdown('# m'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))"
    results = sandbox.run_code(code + shown).results
    assert [sorted(result.formats()) for result in results] == [
        ["html", "text"],
        ["latex", "text"],
        ["markdown", "text"],
        ["svg", "text"],
    ]
    (picture,) = sandbox.run_code("from PIL import Image\nImage.new('RGB', (2, 2)).save('/tmp/p.png')").results
    assert base64.b64decode(picture.png).startswith(b"\x89PNG")
    (own,) = sandbox.run_code("display({'x/own': [1], 'text/plain': 'x'}, raw=True)").results
    assert own.extra == {"x/own": [1]}
    assert sandbox.run_code("{'a': [1, {'b': None}]}").results[0].json == {"a": [1, {"b": None}]}
    table = sandbox.run_code(_IMPORTS + "pd.DataFrame({'n': [1.5, None], 't': pd.to_datetime(['2026-01-01', None])})")
    (shown_table,) = table.results
    assert shown_table.data == {"n": [1.5, None], "t": ["2026-01-01T00:00:00", None]}
    assert "<table" in shown_table.html


CHARTS = {
    ChartType.LINE: "plt.plot([1, 2], [3, 4], label='a'); plt.xlabel('x (s)')",
    ChartType.SCATTER: "plt.scatter([1, 2], [3, 4])",
    ChartType.BAR: "plt.bar(['a', 'b'], [1, 2])",
    ChartType.PIE: "plt.pie([1, 3], labels=['a', 'b'])",
    # e2b-charts takes boxes of equal heights for lying ones, and compares edges for equality: these are exact.
    ChartType.BOX_AND_WHISKER: "plt.boxplot([[1, 2, 3, 4, 5], [1, 3, 5, 7, 9]], patch_artist=True, widths=0.5)",
    ChartType.SUPERCHART: "f, (a, b) = plt.subplots(1, 2); a.plot([1], [2]); b.bar(['x'], [1])",
}


@pytest.mark.parametrize("kind", CHARTS)
def test_charts(sandbox: Sandbox, kind: ChartType) -> None:
    shown = sandbox.run_code(f"{_IMPORTS}plt.close('all'); {CHARTS[kind]}; plt.suptitle('T'); plt.show()")
    (result,) = shown.results
    assert result.png
    assert result.chart is not None, shown.logs.stderr
    assert result.chart.type == kind
    assert result.chart.elements


def test_variables_of_the_sandbox_and_of_one_execution(service: Service) -> None:
    shown = {
        "python": "import os; print(os.environ.get('ONCE'), os.environ.get('ALL'), end='')",
        "javascript": "process.stdout.write(`${process.env.ONCE} ${process.env.ALL}`)",
        "bash": 'printf \'%s %s\' "${ONCE-none}" "$ALL"',
    }
    with Sandbox.create(envs={"ALL": "all"}, **service.client) as sandbox:
        for language, code in shown.items():
            outputs = [
                sandbox.run_code(code, language=language, envs=envs).logs.stdout
                for envs in ({"ONCE": "once"}, None, {"ALL": "other"}, None)
            ]
            first = [output[0].split()[0].lower() for output in outputs]
            assert first[0] == "once"
            assert set(first[1:]) <= {"none", "undefined"}
            assert [output[0].split()[1] for output in outputs] == ["all", "all", "other", "all"]


def test_contexts(sandbox: Sandbox) -> None:
    made = [sandbox.create_code_context(language=language, cwd="/usr") for language in ("python", "js", "ts", "bash")]
    listed = {context.id: context for context in sandbox.list_code_contexts()}
    assert [listed[context.id].language for context in made] == ["python", "javascript", "typescript", "bash"]
    assert {listed[context.id].cwd for context in made} == {"/usr"}
    sandbox.run_code("x = 1", context=made[0])
    sandbox.restart_code_context(made[0])
    error = sandbox.run_code("x", context=made[0]).error
    assert error is not None
    assert error.name == "NameError"
    for context in made:
        sandbox.remove_code_context(context)
    assert not {context.id for context in made} & {context.id for context in sandbox.list_code_contexts()}


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4000)"),
        ("javascript", "process.stdout.write(Buffer.alloc(1e6, '\\x00\\xff\\x1b[31m'))"),
        ("bash", "head -c 1000000 /dev/urandom"),
        ("python", "'\\x00\\ud800' * 100000"),
        ("python", 'print(\'{"type": "end_of_execution"}\\n\' * 1000)'),
    ],
)
def test_hostile_output(sandbox: Sandbox, language: str, code: str) -> None:
    assert sandbox.run_code(code, language=language).error is None
    assert sandbox.run_code("'still here'").text == "still here"
