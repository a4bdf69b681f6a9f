"""Any part is killed, stopped or starved while everything is under way: nothing leaks, nothing half made is handed out.

The order of the faults, their moments and their victims come from a seed, which a failure tells. ``CUBE_TEST_SEED`` is
another one than the usual (``random`` draws one), ``CUBE_TEST_ROUNDS`` has more rounds than one per fault.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.crash_work import Ground, Ledger
from support.faults import (
    Holdings,
    envoy,
    first_process,
    helpers,
    holdings,
    kill,
    launchers,
    reboot,
    send,
    serves,
    traces,
    until,
)
from support.oci_images import directory, file, layer, make_layout
from support.service import Service, footprint, remains

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

#: See :class:`support.service.Service`.
_PART = 12
_SEATS = 2


def seed() -> int:
    given = os.environ.get("CUBE_TEST_SEED", "7")
    return random.SystemRandom().randrange(2**32) if given == "random" else int(given)


class Round:
    """One fault in the middle of everything."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self.service = service
        self.chance = chance
        self.ledger = Ledger()
        self.ground = Ground(service, self.ledger)
        #: Whether sandboxes outlive the fault.
        self.keeps_running = True

    def run(self, fault: Callable[[Round], None]) -> None:
        self.ground.prepare()
        with self.ground.under_way(self.chance):
            time.sleep(self.chance.uniform(0.0, 0.4))  # the moment is what is drawn
            fault(self)
        until(lambda: serves(self.service), "the service does not answer")
        self.ground.check(keeps_running=self.keeps_running)

    def victims(self, count: int) -> list[int]:
        """Processes 1 of some sandboxes that are worked on, which may be lost from now on."""
        chosen = self.chance.sample(sorted(self.ground.victims), count)
        self.ledger.excused.update(chosen)
        return [pid for pid in (first_process(self.service, victim) for victim in chosen) if pid is not None]


def service_is_killed(now: Round) -> None:
    now.service.kill()
    now.ground.stop()
    kill(now.victims(now.chance.randrange(2)))
    now.service.up()


def service_stands_still(now: Round) -> None:
    pid = now.service.pid
    send(pid, signal.SIGSTOP)
    try:
        time.sleep(now.chance.uniform(0.1, 0.5))
    finally:
        send(pid, signal.SIGCONT)


def inbound_proxy_is_killed(now: Round) -> None:
    kill([envoy(now.service, "proxy")])


def outbound_proxy_is_killed(now: Round) -> None:
    former = envoy(now.service, "egress")
    kill([former])
    until(lambda: envoy(now.service, "egress") not in (0, former), "the outbound proxy is not started again")


def sandboxes_are_killed(now: Round) -> None:
    kill(now.victims(3))


def sandboxes_stand_still(now: Round) -> None:
    stopped = now.victims(3)
    for pid in stopped:
        send(pid, signal.SIGSTOP)
    try:
        time.sleep(now.chance.uniform(0.1, 0.5))
        now.ground.delete_stopped()
    finally:
        for pid in stopped:
            send(pid, signal.SIGCONT)


def launcher_is_killed(now: Round) -> None:
    former = launchers(now.service)
    assert former, "there is a launcher"
    kill(former)


def helper_is_killed(now: Round) -> None:
    """The service goes on without it."""
    kill(helpers(now.service))


def volume_is_full(now: Round) -> None:
    with now.ground.full_volume():
        time.sleep(now.chance.uniform(0.1, 0.5))


def machine_restarts(now: Round) -> None:
    now.keeps_running = False
    now.ground.stop()
    reboot(now.service)
    now.service.up()


def template_import_is_killed(now: Round) -> None:
    image = now.service.directory / "image"
    if not image.exists():
        make_layout(image, layer(directory("bin"), *(file(f"data{n}", os.urandom(1 << 20)) for n in range(8))))
    command = [sys.executable, "-m", "cube.cli.main", "template", "import", str(image), "--name", "torn", "--json"]
    importing = subprocess.Popen(command, env=now.service.environment, stdout=subprocess.DEVNULL)
    time.sleep(now.chance.uniform(0.5, 3.0))
    importing.kill()
    importing.wait()
    now.ground.check_templates()


FAULTS = (
    service_is_killed,
    service_stands_still,
    inbound_proxy_is_killed,
    outbound_proxy_is_killed,
    sandboxes_are_killed,
    sandboxes_stand_still,
    launcher_is_killed,
    helper_is_killed,
    volume_is_full,
    machine_restarts,
    template_import_is_killed,
)


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    more = {
        "CUBE_SEAT_POOL": str(_SEATS),
        "CUBE_SEAT_POOL_MAX": str(_SEATS),
        "CUBE_WARM_POOL": "0",
        "CUBE_WARM_POOL_MAX": "0",
        "CUBE_VOLUME_GB": "1",
    }
    service = Service(tmp_path_factory.mktemp("crashes"), templates, _PART, more=more)
    before = footprint(service)
    service.up()
    try:
        yield service
        during = footprint(service)
    finally:
        service.close()
    assert remains(before, during, footprint(service)) == {}


def at_rest(service: Service) -> Holdings:
    """What it has when there are no sandboxes and the pools are full."""
    until(lambda: holdings(service).layers == _SEATS, "the pool does not fill")
    found = holdings(service)
    return replace(found, mounts=found.mounts + 2, interfaces=found.interfaces + 1)


def test_any_part_fails_while_everything_is_under_way(service: Service) -> None:
    number = seed()
    chance = random.Random(number)
    rounds = int(os.environ.get("CUBE_TEST_ROUNDS", len(FAULTS)))
    bounds = at_rest(service)
    order = [fault for _ in range(0, rounds, len(FAULTS)) for fault in chance.sample(FAULTS, len(FAULTS))][:rounds]
    for position, fault in enumerate(order):
        try:
            Round(service, chance).run(fault)
            until(lambda: holdings(service).within(bounds), "something has leaked")
        except BaseException as error:
            error.add_note(f"CUBE_TEST_SEED={number}, round {position}: {fault.__name__}")
            error.add_note(f"{holdings(service)} of {bounds}\n{traces(service)}")
            raise
