"""What is asked of microVMs on a machine of two cores and 24 GiB, emulated."""

from __future__ import annotations

from cube.bench.targets import Target, duration, figure

TARGETS = (
    Target("cold boot to envd answering", "ms", 12_000, 5_000, duration("boot", "cube", "boot", "p50")),
    Target(
        "clone to first command answered, nothing pre-started, p50",
        "ms",
        300,
        110,
        duration("clone", "cube", "create+exec", "p50"),
    ),
    Target("same, from pre-started machines, p50", "ms", 150, 40, duration("pool", "cube", "create+exec", "p50")),
    Target("of the first, work outside of the guest, p50", "ms", 80, 40, duration("clone", "cube", "own work", "p50")),
    Target("creates at concurrency 8", "/s", 10, 20, figure("throughput", "cube, sandboxes"), more=True),
    Target("create of a 4 GiB guest beside 256 MiB", "times", 1.2, 1.02, figure("size", "4096 MiB beside 256 MiB")),
    Target(
        "first `run_code` in a clone with a warm interpreter, p50",
        "ms",
        400,
        120,
        duration("run-code", "cube", "first", "p50"),
    ),
    Target("memory (PSS) of an idle clone", "MB", 90, 25, figure("memory", "PSS of an idle clone")),
    Target(
        "clones alive at once that answer", "", 100, 300, figure("memory", "of which answered a command"), more=True
    ),
    Target("pause to disk, p50", "ms", 1_500, 500, duration("pause", "cube", "pause", "p50")),
    Target("resume, p50", "ms", 800, 200, duration("pause", "cube", "resume", "p50")),
    Target("snapshot: time that it is frozen, p50", "ms", 800, 200, duration("snapshot", "cube", "frozen", "p50")),
)
