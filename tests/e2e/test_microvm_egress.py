"""Egress rules hold for machines as they do for containers: the same requests, from a kernel of their own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.boot.files import BootFiles
from cube.settings import Settings
from support.egress.asking import SECRET, created, fetch, rule, run, seen_at
from support.egress.internet import SETTINGS, trust
from support.egress.sites import Internet
from support.images import CACHE, builtin_templates
from support.network import bad_sums
from support.service import Service
from support.vm_node import keep_between_runs

pytestmark = [pytest.mark.root, pytest.mark.own_process, pytest.mark.timeout(900)]

#: See :class:`support.service.Service`.
_PART = 8
_SIZE = 100_000_000


@pytest.fixture(scope="module")
def templates(directory: Path) -> Path:
    """Where templates are, for machines that have what they boot: a kernel is fetched from beyond this machine, so
    before this process leaves it."""
    state = directory / "service" / "state"
    templates = keep_between_runs(state)
    asyncio.run(BootFiles.ensure(Settings(state_dir=state)))
    builtin_templates(templates)
    return templates


@pytest.fixture(scope="module")
def service(templates: Path, internet: Internet, directory: Path) -> Iterator[Service]:
    state = directory / "service" / "state"
    # The authority that the templates were built with.
    shutil.copytree(CACHE / "ca", state / "ca")
    more = {**SETTINGS, "CUBE_EGRESS_TRUST": trust(directory), "CUBE_RUNTIME": "microvm", "CUBE_WARM_POOL_MAX": "0"}
    service = Service(directory / "service", templates, _PART, more=more)
    service.up()
    try:
        yield service
    finally:
        service.close()


def test_e1_and_e5_what_is_allowed_arrives_with_the_credential(service: Service, internet: Internet) -> None:
    with created(service, rule("api", "api.a.test", inject=True), rule("no", "other.test", allow=False)) as sandbox:
        allowed = seen_at(sandbox, "https://api.a.test/allowed")
        denied = fetch(sandbox, "https://other.test/denied")

        assert dict(allowed["headers"])["authorization"] == f"Bearer {SECRET}"
        assert denied.startswith("403 ")
        assert internet.targets() == ["/allowed"]
        assert SECRET not in run(sandbox, "env; cat /proc/cmdline; sudo dmesg")


def test_e13_a_large_body_comes_through_the_gateway_whole(service: Service) -> None:
    """With sums and segmentation left to the interfaces on both sides."""
    before = bad_sums()
    with created(service, rule("api", "api.a.test")) as sandbox:
        told = run(
            sandbox, f"curl -sS https://api.a.test/bytes/{_SIZE} | wc -c; grep ^Tcp: /proc/net/snmp", timeout=300
        )
    size, names, values = told.splitlines()
    assert int(size) == _SIZE
    assert dict(zip(names.split(), values.split(), strict=True))["InCsumErrors"] == "0"
    assert bad_sums() == before
