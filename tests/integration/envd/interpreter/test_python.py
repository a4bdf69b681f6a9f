"""Python code through the real client."""

from __future__ import annotations

import base64

import pytest
from e2b_code_interpreter import OutputMessage, Sandbox


def test_value_of_the_last_expression(client: Sandbox) -> None:
    execution = client.run_code("x = 6\nx * 7")
    assert execution.text == "42"
    assert execution.results[0].is_main_result
    assert execution.execution_count == 1
    assert client.run_code("x").execution_count == 2


def test_quotes_of_a_string_are_stripped(client: Sandbox) -> None:
    assert client.run_code("'it is'").text == "it is"


def test_printed_lines_arrive_whole(client: Sandbox) -> None:
    seen: list[OutputMessage] = []
    execution = client.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)", on_stdout=seen.append)
    assert execution.logs.stdout == ["out\n"]
    assert execution.logs.stderr == ["err\n"]
    assert seen[0].timestamp > 1_700_000_000_000_000_000


def test_error_with_traceback(client: Sandbox) -> None:
    error = client.run_code("def f():\n    return 1 / 0\nf()").error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / 0" in error.traceback
    assert "\x1b" not in error.traceback


def test_syntax_error(client: Sandbox) -> None:
    error = client.run_code("def f(:").error
    assert error is not None
    assert error.name == "SyntaxError"


def test_figure_arrives_as_picture_and_chart(client: Sandbox) -> None:
    execution = client.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('T')\nplt.show()")
    (result,) = execution.results
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")
    assert result.chart is not None
    assert result.chart.title == "T"
    assert not result.is_main_result


def test_table_arrives_as_html_and_data(client: Sandbox) -> None:
    code = "import pandas as pd\npd.DataFrame({'n': [1, float('nan')], 't': pd.to_datetime(['2024-05-06', None])})"
    (result,) = client.run_code(code).results
    assert "<table" in (result.html or "")
    assert result.data == {"n": [1.0, None], "t": ["2024-05-06T00:00:00", None]}


def test_containers_have_json(client: Sandbox) -> None:
    assert client.run_code("[1, {'a': None}]").results[0].json == [1, {"a": None}]


@pytest.mark.parametrize(
    ("code", "field", "value"),
    [
        ("from IPython.display import HTML\nHTML('<b>x</b>')", "html", "<b>x</b>"),
        ("from IPython.display import Markdown\nMarkdown('*x*')", "markdown", "*x*"),
        ("from IPython.display import SVG\nSVG('<svg></svg>')", "svg", "<svg/>"),
        ("from IPython.display import Latex\nLatex('$x$')", "latex", "$x$"),
        ("from IPython.display import Javascript\nJavascript('x()')", "javascript", "x()"),
    ],
)
def test_rich_representations(client: Sandbox, code: str, field: str, value: str) -> None:
    assert client.run_code(code).results[0][field] == value


def test_unknown_representations_travel_as_extra(client: Sandbox) -> None:
    code = "class X:\n    def _repr_mimebundle_(self, **k):\n        return {'a/b': 'c', 'text/plain': 'X'}\nX()"
    assert client.run_code(code).results[0].extra == {"a/b": "c"}


def test_displays_come_before_the_value(client: Sandbox) -> None:
    results = client.run_code("display(1)\ndisplay(2)\n3").results
    assert [(result.text, result.is_main_result) for result in results] == [("1", False), ("2", False), ("3", True)]


def test_children_and_c_code_are_heard_in_order(client: Sandbox) -> None:
    code = (
        "import os\nfor n in range(3):\n    print('python', n)\n    os.system(f'echo child {n}')\nos.write(1, b'raw')"
    )
    expected = "".join(f"python {n}\nchild {n}\n" for n in range(3)) + "raw"
    assert "".join(client.run_code(code).logs.stdout) == expected


def test_much_output_is_complete(client: Sandbox) -> None:
    execution = client.run_code("for n in range(100_000):\n    print(n)")
    assert "".join(execution.logs.stdout) == "".join(f"{n}\n" for n in range(100_000))


def test_invalid_utf8_is_replaced(client: Sandbox) -> None:
    execution = client.run_code("import os\nos.write(1, b'a\\xff\\xe2\\x82');")
    assert "".join(execution.logs.stdout) == "a\ufffd\ufffd"


def test_result_too_big_for_a_line_is_left_out_with_a_note(client: Sandbox) -> None:
    execution = client.run_code("'z' * 12_000_000")
    assert execution.text is None
    assert "Too big" in "".join(execution.logs.stderr)
    assert client.run_code("'next'").text == "next"


def test_top_level_await_and_tasks_that_outlive_their_cell(client: Sandbox) -> None:
    client.run_code("import asyncio\nasync def later():\n    await asyncio.sleep(0.05)\n    done.set()")
    client.run_code("done = asyncio.Event()\ntask = asyncio.create_task(later())\nawait asyncio.sleep(0)")
    assert client.run_code("await asyncio.wait_for(done.wait(), 5)\ntask.done()").text == "True"


def test_input_fails_at_once(client: Sandbox) -> None:
    error = client.run_code("input('name? ')").error
    assert error is not None
    assert error.name == "StdinNotImplementedError"


def test_magics(client: Sandbox) -> None:
    assert client.run_code("!echo shell").logs.stdout == ["shell\n"]
    assert client.run_code("%cd /\n%pwd").text == "/"
    assert client.run_code("%matplotlib inline").error is None


def test_environment_of_sandbox_and_execution(client: Sandbox) -> None:
    code = "import os\nos.environ['FROM_SANDBOX'], os.environ.get('ONCE')"
    assert client.run_code(code, envs={"ONCE": "1"}).text == "('yes', '1')"
    assert client.run_code(code).text == "('yes', None)"


def test_exit_leaves_the_context_alive(client: Sandbox) -> None:
    client.run_code("x = 1\nexit()")
    error = client.run_code("import sys\nsys.exit(3)").error
    assert error is not None
    assert error.name == "SystemExit"
    assert client.run_code("x").text == "1"


def test_forked_children_do_not_disturb(client: Sandbox) -> None:
    code = (
        "import os\npid = os.fork()\nif pid == 0:\n    display('child')\n    print('from child')\nelse:\n    os.wait()"
    )
    execution = client.run_code(code)
    assert execution.results == []
    assert execution.logs.stdout == ["from child\n"]
    code = "from multiprocessing import get_context\nwith get_context('fork').Pool(1) as p:\n    p.map(print, [1])"
    assert client.run_code(code).logs.stdout == ["1\n"]


def test_protocol_cannot_be_forged_by_accident(client: Sandbox) -> None:
    execution = client.run_code('print(\'{"type":"done","id":1}\')\n5')
    assert execution.text == "5"


def test_saved_pictures_are_shown(client: Sandbox) -> None:
    execution = client.run_code("from PIL import Image\nImage.new('RGB', (1, 1)).save('x.png')")
    assert execution.results[0].png is not None


def test_value_that_cannot_be_printed(client: Sandbox) -> None:
    error = client.run_code("class E(Exception):\n    def __str__(self): raise ValueError\nraise E").error
    assert error is not None
    assert error.name == "E"
