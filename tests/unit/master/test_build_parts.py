"""The parts of a build that decide without a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect

from cube.master.builds.layers import keys, reusable
from cube.master.builds.logs import BuildLog
from cube.master.builds.steps import plain_part
from cube.master.builds.surroundings import Surroundings
from cube.master.builds.uploads import Uploads
from cube.model.builds import Recipe, Step, StepKind
from cube.model.errors import InvalidInput, PermissionDenied
from cube.model.template import ImageConfig

HASH = "a" * 64


def run(command: str, *, force: bool = False) -> Step:
    return Step(StepKind.RUN, (command,), force=force)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$A and ${A}b", "1 and 1b"),
        (r"\$A", "$A"),
        ("$MISSING.", "."),
        ("100$", "100$"),
        ("/opt:$PATH", "/opt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ],
)
def test_variables_in_values(text: str, value: str) -> None:
    assert Surroundings("user", "", {"A": "1"}).expanded(text) == value


def test_variables_refer_to_earlier_ones_of_the_same_step() -> None:
    after = Surroundings("user", "", {"PATH": "/bin"}, ("1000",)).with_variables(["A", "x", "PATH", "$A:$PATH"])
    assert after.env == {"A": "x", "PATH": "x:/bin"}
    assert after.laid_over(ImageConfig(user="root")) == ImageConfig(after.env, "user", "", ("1000",))


def test_a_layer_depends_on_everything_before_it() -> None:
    first = list(keys("base", (run("a"), run("b"))))
    assert first == list(keys("base", (run("a"), run("b"), run("c"))))[:2]
    assert len({*first, *keys("other", (run("a"), run("b"))), *keys("base", (run("c"), run("b")))}) == 6
    copy = [Step(StepKind.COPY, ("a", "b"), name * 64) for name in "ab"]
    assert len({*keys("base", (copy[0],)), *keys("base", (copy[1],))}) == 2


def test_what_is_forced_is_not_reused_and_nothing_after_it() -> None:
    steps = (run("a"), run("b", force=True), run("c"))
    assert reusable(Recipe("base", steps=steps)) == 1
    assert reusable(Recipe("base", steps=(run("a"),))) == 1
    assert reusable(Recipe("base", steps=(run("a"),), force=True)) == 0


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("app", "app"),
        ("./app/", "app"),
        ("app/*.py", "app"),
        ("*.txt", "."),
        (".", "."),
        ("a/../b", "b"),
        ("../../etc", "etc"),
        ("/etc/passwd", "etc/passwd"),
    ],
)
def test_the_plain_part_of_a_source_stays_in_the_archive(source: str, part: str) -> None:
    assert plain_part(source) == part


def test_lines_are_bounded() -> None:
    log = BuildLog(lambda: datetime(2026, 1, 1, tzinfo=UTC))
    log.note("x\n" * 30_000)
    log.note("y" * 100_000, level="error")
    assert len(log.lines()) == 20_001
    assert "left out" in log.lines()[-1].message
    assert [line.level for line in log.lines("warn")] == ["warn"]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    uploads = Uploads(tmp_path / "uploads", largest=1000)
    uploads.open()
    return uploads


async def test_an_upload_is_there_when_it_is_whole(uploads: Uploads) -> None:
    await uploads.receive(HASH, uploads.link(HASH), pieces(b"\x1f\x8b", b"rest"))
    assert uploads.has(HASH)
    async with uploads.using(HASH) as upload:
        assert (upload.path.read_bytes(), upload.packing) == (b"\x1f\x8brest", "z")


async def test_an_upload_that_is_cut_off_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield b"some"
        raise ClientDisconnect

    token = uploads.link(HASH)
    with pytest.raises(ClientDisconnect):
        await uploads.receive(HASH, token, cut_off())
    assert list((tmp_path / "uploads").iterdir()) == []
    await uploads.receive(HASH, token, pieces(b"again"))
    assert uploads.has(HASH)


async def test_a_link_is_for_one_upload_of_one_name(uploads: Uploads) -> None:
    token = uploads.link(HASH)
    with pytest.raises(PermissionDenied):
        await uploads.receive("b" * 64, token, pieces(b""))
    await uploads.receive(HASH, token, pieces(b""))
    for used in (token, "", "made up"):
        with pytest.raises(PermissionDenied):
            await uploads.receive(HASH, used, pieces(b""))


async def test_uploads_are_bounded(uploads: Uploads, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1000"):
        await uploads.receive(HASH, uploads.link(HASH), pieces(b"x" * 600, b"x" * 600))
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("name", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 63 + "/"])
def test_names_of_uploads_are_hashes(uploads: Uploads, name: str) -> None:
    with pytest.raises(InvalidInput):
        uploads.link(name)
    with pytest.raises(InvalidInput):
        uploads.has(name)
