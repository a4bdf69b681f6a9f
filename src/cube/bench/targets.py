"""What is asked of the service on a machine of two cores and 24 GiB, and how a run of all benchmarks answers it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cube.bench.report import Report, table

Reports = Mapping[str, Report]
#: The value that was seen, ``None`` when it was not measured.
Seen = Callable[[Reports], float | None]


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table."""

    what: str
    unit: str
    must: float
    aim: float | None
    seen: Seen
    #: Whether more is better.
    more: bool = False

    def holds(self, reports: Reports) -> bool:
        """Whether what must be is."""
        value = self.seen(reports)
        reached = operator.ge if self.more else operator.le
        return value is not None and bool(reached(value, self.must))

    def row(self, reports: Reports) -> list[str]:
        """The line: what, must, aim, seen, and whether it holds."""
        seen = self.seen(reports)
        cells = [self._shown(value) for value in (self.must, self.aim, seen)]
        return [self.what, *cells, "yes" if self.holds(reports) else "**no**"]

    def _shown(self, value: float | None) -> str:
        return "" if value is None else f"{value:,.4g} {self.unit}".rstrip() if value < 1000 else f"{value:,.0f}"


def duration(benchmark: str, contestant: str, mark: str, percentile: str) -> Seen:
    """A percentile of the durations of a mark, in milliseconds."""

    def seen(reports: Reports) -> float | None:
        report = reports.get(benchmark)
        summary = report.summary(contestant, mark) if report else None
        return None if summary is None else summary.as_dict()[percentile]

    return seen


def figure(benchmark: str, name: str) -> Seen:
    """A figure."""

    def seen(reports: Reports) -> float | None:
        report = reports.get(benchmark)
        found = report.figures.get(name) if report else None
        return None if found is None else found.value

    return seen


def slowest(*figures: Seen) -> Seen:
    """The least of several; ``None`` when one was not measured."""

    def seen(reports: Reports) -> float | None:
        values = [seen_one(reports) for seen_one in figures]
        known = [value for value in values if value is not None]
        return min(known) if len(known) == len(values) else None

    return seen


TARGETS = (
    Target("create and first command, p50", "ms", 20, 8, duration("create", "cube", "create+exec", "p50")),
    Target("create and first command, p99", "ms", 80, None, duration("create", "cube", "create+exec", "p99")),
    Target("creates at concurrency 50", "/s", 100, 210, figure("creates", "cube, sandboxes"), more=True),
    Target("same work beside runc", "times faster", 5, 10, figure("create", "cube's p50 beside runc's"), more=True),
    Target("memory of an idle sandbox", "MB", 1, 0.3, figure("density", "memory of an idle sandbox")),
    Target(
        "sandboxes alive at once that answer",
        "",
        1000,
        None,
        figure("density", "of which answered a command"),
        more=True,
    ),
    Target("first `run_code` of a new sandbox, p50", "ms", 80, 20, duration("run-code", "cube", "first", "p50")),
    Target("later `run_code`, p50", "ms", 10, 4, duration("run-code", "cube", "later", "p50")),
    Target("download of 1 GiB through the proxy", "MB/s", 300, 800, figure("files", "download"), more=True),
    Target(
        "upload of 1 GiB through the proxy, the slower of raw and form",
        "MB/s",
        300,
        800,
        slowest(figure("files", "upload"), figure("files", "upload, form")),
        more=True,
    ),
    Target("TTI through `e2b`, sequential, p50", "ms", 60, 20, duration("tti", "sequential", "tti", "p50")),
    Target("TTI through `e2b`, burst of 100, all done", "s", 3, 1, figure("tti", "burst, all done")),
    Target("EnsureNetwork from the pool, p50", "ms", 3, 1, duration("network", "EnsureNetwork, veth", "ensure", "p50")),
    Target(
        "EnsureNetwork from the pool, p99", "ms", 15, None, duration("network", "EnsureNetwork, veth", "ensure", "p99")
    ),
    Target(
        "adding a policy when 1,000 exist, against 10",
        "times",
        1.5,
        1.1,
        figure("network", "adding a policy beside 1000 / 10"),
    ),
    Target(
        "TCP throughput with a policy, against a plain veth",
        "times",
        0.9,
        0.98,
        figure("network", "TCP, with a policy / plain veth"),
        more=True,
    ),
    Target(
        "recovery of the network agent after kill -9",
        "s",
        3,
        1,
        figure("network", "recovery after kill -9, all networks"),
    ),
    Target("succeeded of that burst", "", 100, None, figure("tti", "burst, succeeded"), more=True),
)


def _egress(name: str) -> Seen:
    return figure("egress", name)


def _egress_duration(mark: str, percentile: str = "p50") -> Seen:
    return duration("egress", "cube", mark, percentile)


#: The same for the outbound proxy.
EGRESS_TARGETS = (
    Target(
        "HTTPS, a rule and an injection", "/s", 3000, 8000, _egress("HTTPS with a rule and an injection"), more=True
    ),
    Target("the same beside mitmproxy", "times", 8, 20, _egress("cube beside mitmproxy"), more=True),
    Target("added latency, p50", "ms", 0.6, 0.25, _egress("added latency, p50")),
    Target("added latency, p99", "ms", 8, 2, _egress("added latency, p99")),
    Target("TLS connect to a new host, p50", "ms", 5, 2, _egress_duration("TLS connect, new name")),
    Target("TLS connect to a known host, p50", "ms", 1.5, 0.8, _egress_duration("TLS connect, known name")),
    Target("1 GiB body through interception", "MB/s", 200, 500, _egress("1 GiB body"), more=True),
    Target("rules in force, when 1,000 have some, p99", "ms", 100, 20, _egress_duration("rules in force", "p99")),
    Target("recovery of the policy service, the longest", "s", 3, 1, _egress("recovery, the longest")),
    Target("audit lines lost, with a crash", "", 0, 0, _egress("audit lines lost")),
)


def as_table(reports: Reports, targets: Sequence[Target] = TARGETS) -> str:
    """The whole table in Markdown."""
    return table(["what", "must", "aim", "seen", "holds"], [target.row(reports) for target in targets])
