"""What opens one sandbox, one file or one port opens nothing else, whoever has got hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from e2b import Sandbox

from support.images import builtin_templates
from support.service import Service

#: See :class:`support.service.Service`.
_PART = 9
_FILE = "/home/user/shared"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("tokens")
    builtin_templates(directory / "templates")
    service = Service(directory, directory / "templates", _PART)
    service.up()
    try:
        yield service
    finally:
        service.close()


def closed_sandbox(service: Service) -> Sandbox:
    """A sandbox whose ports ask for its token, with a file of its user's and a server on port 8000."""
    sandbox = Sandbox.create("base", network={"allow_public_traffic": False}, **service.client)
    sandbox.files.write(_FILE, sandbox.sandbox_id)
    server = sandbox.commands.run("exec python3 -u -m http.server 8000 2>&1", background=True)
    assert "Serving" in next(iter(server))[0]
    return sandbox


@pytest.fixture(scope="module")
def mine(service: Service) -> Iterator[Sandbox]:
    """The sandbox whose tokens somebody has."""
    with closed_sandbox(service) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def other(service: Service) -> Iterator[Sandbox]:
    """The sandbox that they are tried on."""
    with closed_sandbox(service) as sandbox:
        yield sandbox


def signed(sandbox: Sandbox, seconds: int = 600) -> dict[str, str]:
    """The query of a signed URL for reading the file as the default user."""
    url = sandbox.download_url(_FILE, user="user", use_signature_expiration=seconds)
    return dict(parse_qsl(urlsplit(url).query))


def fetch(
    service: Service, sandbox: Sandbox, query: dict[str, str], method: str = "GET", **headers: str
) -> httpx.Response:
    """A request to the agent of a sandbox, without its token."""
    place = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    body = {"content": b"overwritten"} if method == "POST" else {}
    return httpx.request(
        method, f"{service.url}/files", params=query, headers=place | headers, trust_env=False, timeout=30, **body
    )


def test_a_signed_url_opens_its_file(service: Service, mine: Sandbox) -> None:
    assert fetch(service, mine, signed(mine)).text == mine.sandbox_id


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/etc/shadow"},
        {"path": "/home/user/../../etc/shadow"},
        {"path": "shared"},
        {"username": "root"},
        {"username": ""},
        {"signature_expiration": "99999999999"},
        {"signature_expiration": ""},
        {"signature": ""},
        {"signature": "v1_"},
        {"signature": "v2_AAAA"},
    ],
    ids=str,
)
def test_a_signed_url_that_was_changed_opens_nothing(service: Service, mine: Sandbox, change: dict[str, str]) -> None:
    answer = fetch(service, mine, signed(mine) | change)
    assert answer.status_code == 401, answer.text


def test_a_signed_url_is_over_when_its_time_is(service: Service, mine: Sandbox) -> None:
    answer = fetch(service, mine, signed(mine, seconds=-5))
    assert answer.status_code == 401
    assert "expired" in answer.text


def test_a_signed_url_for_reading_does_not_write(service: Service, mine: Sandbox) -> None:
    assert fetch(service, mine, signed(mine), "POST").status_code == 401
    assert mine.files.read(_FILE) == mine.sandbox_id


def test_a_signed_url_of_one_sandbox_opens_no_other(service: Service, mine: Sandbox, other: Sandbox) -> None:
    assert fetch(service, other, signed(mine)).status_code == 401


def test_the_agent_s_token_of_one_sandbox_opens_no_other(service: Service, mine: Sandbox, other: Sandbox) -> None:
    token = {"X-Access-Token": str(mine._envd_access_token)}
    query = {"path": _FILE, "username": "user"}
    assert fetch(service, mine, query, **token).text == mine.sandbox_id
    assert fetch(service, other, query, **token).status_code == 401
    assert fetch(service, other, query, "POST", **token).status_code == 401
    # A wrong token is not made good by a signature of one's own.
    assert fetch(service, other, signed(mine), **token).status_code == 401
    assert other.files.read(_FILE) == other.sandbox_id


@pytest.mark.parametrize("method", ["process.Process/List", "filesystem.Filesystem/ListDir"])
def test_the_agent_s_token_starts_nothing_in_another_sandbox(
    service: Service, mine: Sandbox, other: Sandbox, method: str
) -> None:
    headers = {"E2b-Sandbox-Port": "49983", "X-Access-Token": str(mine._envd_access_token)}
    codes = [
        httpx.post(
            f"{service.url}/{method}",
            json={"path": "/"} if "ListDir" in method else {},
            headers={**headers, "E2b-Sandbox-Id": sandbox.sandbox_id},
            trust_env=False,
            timeout=30,
        ).status_code
        for sandbox in (mine, other)
    ]
    assert codes == [200, 401]


def test_the_traffic_token_of_one_sandbox_opens_no_port_of_another(
    service: Service, mine: Sandbox, other: Sandbox
) -> None:
    def port(sandbox: Sandbox, token: str, number: int = 8000) -> int:
        place = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(number)}
        headers = {**place, "e2b-traffic-access-token": token}
        return httpx.get(f"{service.url}/", headers=headers, trust_env=False, timeout=30).status_code

    assert port(mine, str(mine.traffic_access_token)) == 200
    assert port(other, str(mine.traffic_access_token)) == 403
    assert port(other, str(other._envd_access_token)) == 403
    assert port(other, str(mine.traffic_access_token), 49999) == 403
    assert port(other, "") == 403
