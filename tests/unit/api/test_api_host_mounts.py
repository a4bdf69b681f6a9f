from __future__ import annotations

import json

import pytest

from cube.api.host_mounts import host_mounts
from cube.model.errors import InvalidInput
from cube.model.mounts import HostMount


def parse(*entries: object) -> tuple[HostMount, ...]:
    return host_mounts({"host-mount": json.dumps(entries), "other": "x"})


def entry(host: str = "/data/a", target: str = "/mnt/a", **more: object) -> dict[str, object]:
    return {"hostPath": host, "mountPath": target, **more}


def test_nothing_asked_for_nothing_given() -> None:
    assert host_mounts({"other": "x"}) == ()
    assert parse() == ()


def test_entries() -> None:
    assert parse(entry(), entry("/data/b", "/mnt/b", readOnly=True)) == (
        HostMount("/data/a", "/mnt/a"),
        HostMount("/data/b", "/mnt/b", read_only=True),
    )


def test_paths_are_cleaned() -> None:
    assert parse(entry("//data/./x/../a//", "/mnt/a/")) == (HostMount("/data/a", "/mnt/a"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("{}", "array"),
        ("[1]", "[0]"),
        (json.dumps([{"mountPath": "/a"}]), "[0].hostPath"),
        (json.dumps([entry(), entry(host="data")]), "[1].hostPath"),
        (json.dumps([entry(target="mnt")]), "absolute"),
        (json.dumps([entry(target="/a\0b")]), "[0].mountPath"),
        (json.dumps([entry(target="/" + "a" * 5000)]), "[0].mountPath"),
        (json.dumps([entry(readOnly="yes")]), "[0].readOnly"),
        (json.dumps([entry(target=f"/mnt/{number}") for number in range(17)]), "16"),
    ],
)
def test_the_culprit_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        host_mounts({"host-mount": text})
    assert 'metadata."host-mount"' in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    "target",
    ["/", "/proc", "/proc/sys", "/sys", "/dev/shm", "/usr", "/usr/bin/sudo", "/etc", "/mnt/../proc", "/etc/hosts"],
)
def test_what_a_sandbox_needs_cannot_be_covered(target: str) -> None:
    with pytest.raises(InvalidInput, match="choose another path"):
        parse(entry(target=target))


@pytest.mark.parametrize("targets", [("/mnt", "/mnt"), ("/mnt/a", "/mnt"), ("/mnt", "/mnt-b", "/mnt/c/d")])
def test_mounts_do_not_meet(targets: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="/mnt has another one"):
        parse(*(entry(target=target) for target in targets))


def test_neighbours_do_not_meet() -> None:
    assert len(parse(entry(target="/mnt/a"), entry(target="/mnt/ab"), entry(target="/process"))) == 3
