from __future__ import annotations

from cube.bench import suite
from cube.bench.load import Samples
from cube.bench.report import Figure, Report
from cube.bench.targets import EGRESS_TARGETS, TARGETS, as_table

BY_NAME = {target.what: target for target in TARGETS}


def of(name: str, **durations: list[float]) -> dict[str, Report]:
    return {name: Report(name, "", samples={"cube": Samples(dict(durations))})}


def test_fast_enough_holds_and_too_slow_does_not() -> None:
    target = BY_NAME["later `run_code`, p50"]
    assert target.holds(of("run-code", later=[0.0099]))
    assert not target.holds(of("run-code", later=[0.0101]))


def test_what_was_not_measured_does_not_hold() -> None:
    assert not any(target.holds({}) for target in TARGETS)
    assert as_table({}).count("**no**") == len(TARGETS)


def test_more_is_better_where_it_says_so() -> None:
    target = BY_NAME["creates at concurrency 50"]
    fast, slow = ({"creates": Report("", "", figures={"cube, sandboxes": Figure(n, "/s")})} for n in (101, 99))
    assert target.holds(fast)
    assert not target.holds(slow)


def test_the_slower_way_of_uploading_counts() -> None:
    target = BY_NAME["upload of 1 GiB through the proxy, the slower of raw and form"]
    figures = {"upload": Figure(900, "MB/s"), "upload, form": Figure(200, "MB/s")}
    assert target.seen({"files": Report("", "", figures=figures)}) == 200
    assert target.seen({"files": Report("", "", figures={"upload": Figure(900, "MB/s")})}) is None


def test_a_line_shows_what_was_asked_and_seen() -> None:
    target = BY_NAME["create and first command, p50"]
    reports = {"create": Report("", "", samples={"cube": Samples({"create+exec": [0.0073]})})}
    assert target.row(reports) == ["create and first command, p50", "20 ms", "8 ms", "7.3 ms", "yes"]


def test_every_target_reads_a_benchmark_of_the_suite() -> None:
    """A name that is mistyped here would never be measured."""
    names = {part.name for part in suite.parts("base", "code-interpreter-v1")}

    class Asked(dict[str, Report]):
        asked: set[str]

        def get(self, key: str, default: object = None) -> None:  # type: ignore[override]
            self.asked.add(key)

    reports = Asked()
    reports.asked = set()
    for target in (*TARGETS, *EGRESS_TARGETS):
        target.seen(reports)
    assert reports.asked <= names
