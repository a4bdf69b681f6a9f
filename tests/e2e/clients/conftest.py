from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import checks
from support.checks import Outcome, Run
from support.images import builtin_templates, imported_image
from support.machine import HOSTS, greeters, machine
from support.service import Service

#: Images that clients build templates from.
_IMAGES = (
    *("debian:stable", "ubuntu:latest", "python:3", "node:lts", "oven/bun:latest"),
    *("fedora:44", "alpine:3.24", "archlinux:latest"),
)
#: Runs beside each other; they mostly wait.
_AT_ONCE = 3
#: The checks run inside the clients' own environments.
collect_ignore = ["suites"]


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run, str], Outcome]:
    """How a check ended. All that the tests of this session want are run at once, on a machine of their own."""
    wanted: dict[Run, list[str]] = defaultdict(list)
    for item in request.session.items:
        if hasattr(item, "callspec") and "run" in item.callspec.params:
            wanted[item.callspec.params["run"]].append(item.callspec.params["node"])
    templates = tmp_path_factory.mktemp("images-of-clients") / "templates"
    builtin_templates(templates)
    imported_image(templates, _IMAGES)
    with machine() as internet, greeters(internet):
        found = _carried_out(
            wanted, Service(tmp_path_factory.mktemp("clients"), templates, 5, more={"CUBE_TLS": "also"})
        )
    return lambda run, node: found[run][node]


def _carried_out(wanted: Mapping[Run, Sequence[str]], service: Service) -> dict[Run, dict[str, Outcome]]:
    service.up()
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            runs = {
                run: pool.submit(checks.carry_out, run, nodes, variables(service, run.way))
                for run, nodes in wanted.items()
            }
        return {run: future.result() for run, future in runs.items()}
    finally:
        for snapshot in service.get("/snapshots").json():
            httpx.delete(f"{service.url}/templates/{snapshot['snapshotID']}", trust_env=False)
        service.close()


def variables(service: Service, way: str) -> dict[str, str]:
    """How clients find the service: by one address for everything, or by a domain, over TLS."""
    directory = service.directory / "state/tls"
    by_domain = {
        "E2B_DOMAIN": f"cube.localhost:{service.port}",
        "SSL_CERT_FILE": str(directory / "bundle.pem"),
        "NODE_EXTRA_CA_CERTS": str(directory / "ca.pem"),
    }
    by_address = {"E2B_API_URL": service.url, "E2B_SANDBOX_URL": service.url, "E2B_VOLUME_API_URL": service.url}
    return {
        "E2B_API_KEY": "e2b_" + "0" * 40,
        **(by_domain if way == "domain" else by_address),
        "CHECKS_HOSTS": ",".join(HOSTS),
        "CUBE_API_URL": service.url,
        "CUBE_TEMPLATE_ID": "code-interpreter-v1",
        "CUBE_PROXY_NODE_IP": "127.0.0.1",
        "CUBE_PROXY_PORT_HTTP": str(service.port),
    }
