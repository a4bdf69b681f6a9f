"""The benchmark of the outbound proxy, with so little work that it only shows that everything is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cube.bench.egress.generator import require
from cube.bench.egress.measure import Options, measure
from cube.bench.targets import EGRESS_TARGETS

pytestmark = pytest.mark.root


def no_bar(name: str, steps: int) -> Callable[[], None]:
    return lambda: None


async def test_everything_is_measured_and_no_audit_line_is_lost() -> None:
    options = Options(requests=4000, policies=20, round=400, body=1 << 24)
    report = await measure(options, no_bar, "cube bench egress")

    reports = {"egress": report}
    unmeasured = [target.what for target in EGRESS_TARGETS if target.seen(reports) is None]
    assert unmeasured == ["the same beside mitmproxy"]
    assert report.absent == {"mitmproxy": "it was not asked for"}
    assert report.figures["audit lines lost"].value == 0
    assert report.figures["audit lines twice"].value == 0


def test_without_the_load_generator_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(FileNotFoundError, match="nghttp2-client"):
        require()
