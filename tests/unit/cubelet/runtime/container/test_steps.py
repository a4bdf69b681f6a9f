"""Launch steps: their layout is that of the protocol's document, and a plan keeps descriptors and words in order."""

from __future__ import annotations

import inspect
import re
import resource
from pathlib import Path

import pytest

from cube.cubelet.runtime.container import execute, steps
from cube.cubelet.runtime.container.plan import Plan, describe
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.guest.wire import Reader, Writer

_PROTOCOL = Path(__file__).parents[5] / "docs" / "cube-init.md"
_CLASSES = {kind for module in (steps, execute) for _, kind in inspect.getmembers(module, inspect.isclass)}
_STEPS = [kind for kind in _CLASSES if issubclass(kind, Step) and kind is not Step]


def encoded(step: Step) -> bytes:
    """The fields of a step whose descriptors are 40, 41, …, which get the indexes 0, 1, …"""
    body = Writer()
    step.encode(body, lambda fd: fd - 40)
    return body.finish()


def text(value: str) -> bytes:
    return Writer().text(value).finish()


def u32(*values: int) -> bytes:
    body = Writer()
    for value in values:
        body.u32(value)
    return body.finish()


LAYOUTS: list[tuple[Step, bytes]] = [
    (steps.JoinCgroup(40), u32(0)),
    (steps.CloneIntoCgroup(40), u32(0)),
    (steps.EnterNet(41), u32(1)),
    (steps.NewCgroupNamespace(), b""),
    (steps.NewNet(), b""),
    (steps.SharePids(), b""),
    (steps.Hostname("h"), text("h")),
    (steps.AttachHost(42, "/l"), u32(2) + text("/l")),
    (steps.Overlay(("/a", "/b"), "/u", "/w", "volatile"), text("/a:/b") + text("/u") + text("/w") + text("volatile")),
    (steps.Staging("/s"), text("/s")),
    (
        steps.Mount("tmpfs", "/t", MountAttr.NOSUID | MountAttr.NODEV, (("size", "1m"), ("noswap", ""))),
        text("tmpfs") + text("/t") + u32(6, 2) + text("size") + text("1m") + text("noswap") + text(""),
    ),
    (steps.Bind("/h", "/t", MountAttr.RDONLY, recursive=True), text("/h") + text("/t") + u32(1, 1)),
    (steps.MakeNode("/n", 0o20666, 1, 3, 7, 8), text("/n") + u32(0o20666, 1, 3, 7, 8)),
    (steps.SymbolicLink("to", "/l"), text("to") + text("/l")),
    (steps.Directory("/d", 0o755, 7, 8), text("/d") + u32(0o755, 7, 8)),
    (steps.File("/f", 0o600, 7, 8, b"\0x"), text("/f") + u32(0o600, 7, 8) + u32(2) + b"\0x"),
    (steps.Mask("/m"), text("/m")),
    (steps.ReadOnly("/r"), text("/r")),
    (steps.Pivot(), b""),
    (steps.Sysctl("net/x", "1"), text("net/x") + text("1")),
    (steps.OomScore(-1000), (-1000).to_bytes(4, "little", signed=True)),
    (
        steps.ResourceLimit(7, 5, resource.RLIM_INFINITY),
        u32(7) + (5).to_bytes(8, "little") + b"\xff" * 8,
    ),
    (steps.EnterUser(43), u32(3)),
    (steps.CapabilitySet(1 << 40), (1 << 40).to_bytes(8, "little")),
    (steps.NoNewPrivs(), b""),
    (steps.Seccomp(b"12345678"), u32(8) + b"12345678"),
    (steps.Park(44), u32(4)),
    (steps.MoveIn("/host/dev", "/dev"), text("/host/dev") + text("/dev")),
    (steps.Serve(40, 41, (1000, 1001)), u32(0, 1, 2, 1000, 1001)),
    (
        execute.Execute(40, 41, "/p", ("p", "-x"), ("A=b",), (43, 42)),
        u32(0, 1) + text("/p") + u32(2) + text("p") + text("-x") + u32(1) + text("A=b") + u32(2, 3, 2),
    ),
]


@pytest.mark.parametrize(("step", "body"), LAYOUTS, ids=[type(step).__name__ for step, _ in LAYOUTS])
def test_fields_are_laid_out_as_documented(step: Step, body: bytes) -> None:
    assert encoded(step) == body


def test_every_step_is_in_the_document_under_its_number() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", _PROTOCOL.read_text(), re.MULTILINE)
    documented = {name: int(op) for op, name in rows}
    found = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper(): kind.op for kind in _STEPS}
    found = {_WIRE_NAMES.get(name, name): op for name, op in found.items()}
    assert found.items() <= documented.items()
    assert sorted(found.values()) == list(range(1, 31))


#: Where Python's name is clearer than the one on the wire.
_WIRE_NAMES = {
    "NEW_CGROUP_NAMESPACE": "NEW_CGROUPNS",
    "MAKE_NODE": "MKNOD",
    "SYMBOLIC_LINK": "SYMLINK",
    "RESOURCE_LIMIT": "RLIMIT",
    "CAPABILITY_SET": "CAPABILITIES",
}


def test_the_layout_of_every_step_is_tested() -> None:
    assert {type(step) for step, _ in LAYOUTS} == set(_STEPS)


def test_a_plan_sends_every_descriptor_once_and_ends_by_serving() -> None:
    plan = Plan(listening=9, sudo_uids=(1000,))
    plan.add(steps.EnterUser(5), steps.EnterNet(6), steps.JoinCgroup(5))
    body, fds = plan.encode(control=8)
    assert fds == [5, 6, 8, 9]
    reader = Reader(body)
    assert reader.u32() == 4
    expected = Writer()
    for op, index in ((20, 0), (2, 1), (1, 0)):
        expected.u16(op).u32(index)
    assert body[4:] == expected.u16(24).u32(2).u32(3).u32(1).u32(1000).finish()


def test_a_plan_says_what_failed() -> None:
    failing = Plan(listening=9, steps=[steps.Mount("proc", "/proc"), steps.Pivot()]).complete(control=8)
    assert describe(failing, 0) == "starting the sandbox: mounting proc on /proc"
    assert describe(failing, 1) == "starting the sandbox: changing to its root"
    assert describe(failing, 2) == "starting the sandbox: starting to serve"
    assert describe(failing, 0xFFFF_FFFF) == "starting the sandbox: making its first process"


@pytest.mark.parametrize("step", [step for step, _ in LAYOUTS], ids=lambda step: type(step).__name__)
def test_every_step_has_words(step: Step) -> None:
    assert re.fullmatch(r"[a-z]+ing .+|setting .+", str(step))


def test_content_of_files_is_not_shown() -> None:
    step = steps.File("/f", 0o600, 0, 0, b"secret")
    assert "secret" not in repr(step) + str(step) + repr(Plan(0, steps=[step]))


def test_layers_of_an_overlay_are_separated_by_colons_that_are_not_theirs() -> None:
    reader = Reader(encoded(steps.Overlay(("/a:b", "/c\\d"), "/u:", "/w,")))
    assert [reader.text() for _ in range(4)] == ["/a\\:b:/c\\\\d", "/u\\:", "/w,", ""]


def test_overlay_directories_that_the_kernel_would_refuse() -> None:
    steps.Overlay(("/" + "a" * 254,))
    with pytest.raises(ValueError, match="at most 255 bytes"):
        steps.Overlay(("/" + "a" * 255,))
    with pytest.raises(ValueError, match="at most 255 bytes"):
        steps.Overlay(("/a",), upper="/" + "ä" * 128)
