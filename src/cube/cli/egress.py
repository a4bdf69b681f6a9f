"""``cube egress``: rules that are in force, and what sandboxes have said to the world."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from cube.cli.output import Json, fail, out, print_json
from cube.egress.audit import log, reader
from cube.model.errors import CubeError, NotFound, Unavailable
from cube.settings import Settings

app = typer.Typer(help="Egress rules of sandboxes, and the audit log of what they said to the world.")

_Record = dict[str, Any]
Sandbox = Annotated[str, typer.Argument(help="Id or address of a sandbox.")]


@app.command("ls")
def list_policies(as_json: Json = False) -> None:
    """Show the sandboxes that have egress rules, and whether these are in force.

    Example: cube egress ls
    """
    try:
        policies = _ask("/policies")["policies"]
    except CubeError as error:
        fail(error.message, as_json=as_json)
    if as_json:
        print_json(policies)
        return
    table = Table("sandbox", "address", "rules", "in force", box=None, pad_edge=False)
    for one in policies:
        table.add_row(one["policy_id"], one["ip"], str(one["rules"]), "yes" if one["in_force"] else "no, refused")
    out.print(table)


@app.command()
def show(sandbox: Sandbox, as_json: Json = False) -> None:
    """Show the rules of a sandbox in the order in which they are tried, their secrets masked.

    Example: cube egress show i8q2m0v5x7c1k9d4f6h3z
    """
    try:
        policy = _ask(f"/policies/{_address(sandbox)}")
    except CubeError as error:
        fail(error.message, as_json=as_json)
    if as_json:
        print_json(policy)
        return
    table = Table("rule", "", "where", "audit", "injects", box=None, pad_edge=False)
    for rule in policy["rules"]:
        action = rule["action"]
        headers = ", ".join(one["header"] for one in action.get("inject", ()))
        word = "allow" if action["allow"] else "deny"
        table.add_row(escape(rule["id"]), word, escape(_where(rule["match"])), action["audit"], headers)
    out.print(table)


@app.command()
def audit(
    sandbox: Annotated[str, typer.Option(help="Only this sandbox, by id or address.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole records, one JSON object a line.")] = False,
) -> None:
    """Show what sandboxes asked of the world and what became of it, the oldest first. Needs no running service.

    Examples:

        cube egress audit --sandbox i8q2m0v5x7c1k9d4f6h3z --follow

        cube egress audit --json | jq 'select(.event == "security_event")'
    """
    path = Settings().egress_log
    try:
        for record in reader.of_sandbox(reader.follow(path) if follow else log.read(path), sandbox):
            _print(record, as_json=as_json)
    except PermissionError:
        fail(f"{path} is for root alone", as_json=as_json)
    except KeyboardInterrupt:
        pass


def _print(record: _Record, *, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(record).decode(), flush=True)
    else:
        out.print(escape(" ".join(_words(record))), soft_wrap=True)


def _words(record: _Record) -> Iterator[str]:
    """One line for people."""
    http, policy = record.get("http"), record.get("policy") or {}
    security, sandbox = record.get("security") or {}, record.get("sandbox") or {}
    yield str(record.get("ts"))
    yield str(sandbox.get("policy_id") or sandbox.get("src_ip"))
    yield str(policy.get("decision"))
    if http:
        yield f"{http['method']} {http['scheme']}://{http['host']}{http['path']} {http['status']}"
    else:
        yield f"handshake for {(record.get('tls') or {}).get('sni')}"
    if policy.get("matched_rule"):
        yield f"rule={policy['matched_rule']}"
    if security.get("reason"):
        yield f"reason={security['reason']}"
    if record.get("event") == "security_event":
        yield "(security event)"


def _where(match: _Record) -> str:
    parts = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in match.items()]
    return " ".join(parts) or "everything"


def _address(sandbox: str) -> str:
    policies: Iterable[_Record] = _ask("/policies")["policies"]
    found = list(islice((one["ip"] for one in policies if sandbox in (one["ip"], one["policy_id"])), 1))
    if not found:
        raise NotFound(f"sandbox {sandbox!r} has no egress rules in force: see `cube egress ls`")
    return str(found[0])


def _ask(path: str) -> Any:
    """What the admin API answers. Raises ``CubeError``."""
    import httpx  # late: commands that ask nobody need not wait for it

    # Without TLS there is no authority to trust, and reading those of the web takes 36 ms.
    transport = httpx.HTTPTransport(uds=str(Settings().egress_admin_socket), verify=False)
    try:
        with httpx.Client(transport=transport, timeout=30, trust_env=False) as client:
            answer = client.get(f"http://egress/admin/v1{path}")
    except httpx.HTTPError as error:
        raise Unavailable(
            "the outbound proxy's API does not answer; is the service running, and are you root?"
        ) from error
    if not answer.is_success:
        raise CubeError(answer.json()["message"])
    return answer.json()
