"""QEMU's command line says what the machine is, and nothing of the host."""

from __future__ import annotations

import itertools

import pytest

from cube.cubelet.runtime.microvm import command
from cube.cubelet.runtime.microvm.command import ColdBoot, Machine, arguments
from cube.model.resources import Resources

MACHINE = Machine("tcg", "max", cpus=2, memory_mb=512, network=True)


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(argv))


def values(argv: list[str], option: str) -> list[str]:
    return [value for name, value in pairs(argv) if name == option]


def test_a_machine_follows_from_resources_and_accelerator() -> None:
    resources = Resources(cpu_count=3, memory_mb=256)
    assert Machine.of(resources, "tcg") == Machine("tcg", "max", 3, 256, network=True)
    assert Machine.of(resources, "kvm", network=False) == Machine("kvm", "host", 3, 256, network=False)


def test_a_clone_waits_for_its_state() -> None:
    argv = arguments(MACHINE, None)
    assert ("-incoming", "defer") in pairs(argv)
    assert "-S" in argv
    assert "-kernel" not in argv


def test_a_cold_boot_has_a_kernel_and_waits_to_be_let_run() -> None:
    argv = arguments(MACHINE, ColdBoot("quiet x=y"))
    assert values(argv, "-kernel") == [command.KERNEL]
    assert values(argv, "-initrd") == [command.INITRAMFS]
    assert values(argv, "-append") == ["quiet x=y"]
    assert "-S" in argv
    assert "-incoming" not in argv


def test_both_have_the_same_devices_in_the_same_order() -> None:
    cold, clone = arguments(MACHINE, ColdBoot("")), arguments(MACHINE, None)
    for option in ("-device", "-chardev", "-blockdev", "-netdev", "-object", "-machine", "-cpu", "-smp", "-m"):
        assert values(cold, option) == values(clone, option)


def test_the_order_of_devices() -> None:
    kinds = [value.partition(",")[0] for value in values(arguments(MACHINE, None), "-device")]
    assert kinds == [
        "virtio-serial-device",
        "virtconsole",
        "virtserialport",
        "virtio-blk-device",
        "virtio-blk-device",
        "virtio-net-device",
        "virtio-balloon-device",
        "virtio-rng-device",
    ]


def test_disks_are_told_apart_by_serial_number() -> None:
    disks = [value for value in values(arguments(MACHINE, None), "-device") if "virtio-blk" in value]
    assert ["serial=cube-image" in disks[0], "serial=cube-layer" in disks[1]] == [True, True]


def test_the_image_is_read_only() -> None:
    image, layer = values(arguments(MACHINE, None), "-blockdev")
    assert "read-only=on" in image
    assert "read-only" not in layer


def test_without_a_network_there_is_none() -> None:
    argv = arguments(Machine("tcg", "max", 1, 128, network=False), None)
    assert values(argv, "-netdev") == []
    assert not any("net" in value for value in values(argv, "-device"))


@pytest.mark.parametrize(("accelerator", "option"), [("tcg", "tcg,thread=multi,tb-size=128"), ("kvm", "kvm")])
def test_the_accelerator(accelerator: str, option: str) -> None:
    assert values(arguments(Machine(accelerator, "max", 1, 128, network=True), None), "-accel") == [option]


def test_its_filter_is_on_and_denies_all_that_can_be_denied() -> None:
    (sandbox,) = values(arguments(MACHINE, None), "-sandbox")
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def test_nothing_is_configured_by_the_host() -> None:
    argv = arguments(MACHINE, None)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert values(argv, "-display") == ["none"]


def test_paths_are_those_of_its_own_tree() -> None:
    argv = arguments(MACHINE, ColdBoot(""))
    paths = {word for value in argv for word in value.replace("=", ",").split(",") if word.startswith("/")}
    assert paths == {
        command.PROGRAM,
        command.FIRMWARE,
        command.MEMORY,
        command.KERNEL,
        command.INITRAMFS,
        "/dev/fdset/6",
        "/dev/fdset/7",
    }
