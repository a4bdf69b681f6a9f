from __future__ import annotations

import orjson

from cube.bench.load import Samples
from cube.bench.report import Figure, Report, rate


def report() -> Report:
    samples = Samples({"create": [0.001, 0.002, 0.003]}, errors=["refused"], elapsed=2.0)
    return Report(
        "create",
        "cube bench create",
        {"count": 3},
        {"cube": samples},
        {"speed": Figure(12.5, "MB/s")},
        {"crun": "it refuses this host"},
    )


def test_json_has_the_durations_the_figures_and_who_is_absent() -> None:
    document = orjson.loads(orjson.dumps(report().as_dict()))
    assert document["results"]["cube"]["milliseconds"]["create"]["p50"] == 2.0
    assert document["results"]["cube"]["per_second"] == 1.5
    assert document["results"]["cube"]["errors"] == ["refused"]
    assert document["figures"] == {"speed": {"value": 12.5, "unit": "MB/s"}}
    assert document["absent"] == {"crun": "it refuses this host"}
    assert document["machine"].keys() == {"cores", "memory_gib", "kernel"}


def test_markdown_begins_with_the_command_and_tells_of_failures() -> None:
    lines = report().markdown().splitlines()
    assert lines[:3] == ["```sh", "cube bench create", "```"]
    assert "| cube | create | 3 | 1.0 | 2.0 | 2.0 | 3.0 | 3.0 | 3.0 | 3.0 |" in lines
    assert lines[-3:] == ["- speed: 12.5 MB/s", "- crun cannot run here: it refuses this host", "- cube: refused"]


def test_errors_are_counted_over_all_contestants() -> None:
    assert report().errors == 1


def test_there_is_no_summary_of_what_was_not_measured() -> None:
    assert report().summary("cube", "exec") is None
    assert report().summary("runc", "create") is None


def test_the_rate_of_nothing_is_none() -> None:
    assert rate(Samples()).value == 0.0
