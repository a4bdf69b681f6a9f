from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import checks
from support.checks import Outcome, Run
from support.service import Service

#: Runs beside each other; they mostly wait.
_AT_ONCE = 3
#: The checks run inside the clients' own environments.
collect_ignore = ["suites"]


@pytest.fixture(scope="session")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for clients alone, which speaks TLS too."""
    service = Service(tmp_path_factory.mktemp("clients"), templates, 5, more={"CUBE_TLS": "also"})
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, service: Service) -> Iterator[Callable[[Run, str], Outcome]]:
    """How a check ended. The first that is asked for begins all runs that the tests of this session want."""
    wanted: dict[Run, list[str]] = defaultdict(list)
    for item in request.session.items:
        if hasattr(item, "callspec") and "run" in item.callspec.params:
            wanted[item.callspec.params["run"]].append(item.callspec.params["node"])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        runs = {
            run: pool.submit(checks.carry_out, run, nodes, variables(service, run.way)) for run, nodes in wanted.items()
        }
        yield lambda run, node: runs[run].result()[node]


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
        "CUBE_API_URL": service.url,
        "CUBE_TEMPLATE_ID": "code-interpreter-v1",
        "CUBE_PROXY_NODE_IP": "127.0.0.1",
        "CUBE_PROXY_PORT_HTTP": str(service.port),
    }
