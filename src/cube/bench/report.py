"""What a benchmark found, in the one form that all of them report: for programs (JSON) and for documents (Markdown)."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cube import __version__
from cube.bench.load import Samples
from cube.bench.summary import Summary, summarise

#: The columns of a table of durations.
COLUMNS = ("rounds", "min", "avg", "p50", "p90", "p95", "p99", "max")
#: Errors that are shown in full; the others are counted.
_ERRORS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is no duration of a round."""

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit}".rstrip()


@dataclass(slots=True)
class Report:
    """One benchmark: durations by contestant and mark, and figures by name."""

    benchmark: str
    #: The command that makes it again.
    command: str
    parameters: dict[str, object] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    #: Rivals that cannot run on this machine, and why.
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Rounds that failed."""
        return sum(len(samples.errors) for samples in self.samples.values())

    def summary(self, contestant: str, mark: str) -> Summary | None:
        """The durations of a mark, ``None`` when there are none."""
        samples = self.samples.get(contestant)
        values = samples.durations.get(mark) if samples else None
        return summarise(values) if values else None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "benchmark": self.benchmark,
            "command": self.command,
            "version": __version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "parameters": self.parameters,
            "results": {name: _numbers(samples) for name, samples in self.samples.items()},
            "figures": {name: {"value": one.value, "unit": one.unit} for name, one in self.figures.items()},
            "absent": self.absent,
        }

    def markdown(self) -> str:
        """For docs/performance.md: the command, the durations in milliseconds, the figures, and who is absent."""
        parts = [f"```sh\n{self.command}\n```"]
        if rows := self.rows():
            parts.append(table(["", "", *COLUMNS], rows))
        lines = [f"- {name}: {figure}" for name, figure in self.figures.items()]
        lines += [f"- {name} cannot run here: {reason}" for name, reason in self.absent.items()]
        lines += [f"- {name}: {error}" for name, error in self.failures()]
        if lines:
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def rows(self) -> list[list[str]]:
        """Contestant, mark and the columns of the durations, in milliseconds."""
        return [
            [name, mark, *_cells(summarise(values))]
            for name, samples in self.samples.items()
            for mark, values in samples.durations.items()
        ]

    def failures(self) -> list[tuple[str, str]]:
        """Contestant and message of the first failed rounds."""
        return [(name, error) for name, samples in self.samples.items() for error in samples.errors[:_ERRORS_SHOWN]]


def rate(samples: Samples) -> Figure:
    """Rounds that succeeded per second of the measured time."""
    return Figure(round(samples.rounds / samples.elapsed, 2) if samples.elapsed else 0.0, "per second")


def machine() -> dict[str, object]:
    """What the figures were made on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(summary: Summary) -> list[str]:
    numbers: Mapping[str, float] = summary.as_dict()
    return [f"{numbers['count']:.0f}", *(f"{numbers[name]:.1f}" for name in COLUMNS[1:])]


def _numbers(samples: Samples) -> dict[str, object]:
    return {
        "milliseconds": {mark: summarise(values).as_dict() for mark, values in samples.durations.items()},
        "per_second": rate(samples).value,
        "errors": samples.errors[:_ERRORS_SHOWN],
        "error_count": len(samples.errors),
    }
