"""``cube network``: the links of this node, and the network agent by itself."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import typer
from rich.table import Table

from cube.cli.output import Json, fail, out, print_json
from cube.model.errors import CubeError, SandboxNotFound, Unavailable
from cube.settings import Settings, require_root

app = typer.Typer(help="Networks: the links of sandboxes, their addresses and policies.", no_args_is_help=True)
_PATIENCE_S = 30


@app.command("ls")
def list_networks(as_json: Json = False) -> None:
    """Show every sandbox that is on a link, its address and interface, and what its policy says in short.

    Example: cube network ls --json
    """
    networks = _asked("/v1/network/list", {}, as_json=as_json).get("networks", [])
    if as_json:
        print_json(networks)
        return
    table = Table("sandbox", "kind", "address", "interface", "owner", "state", "policy", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for one in networks:
        told = one.get("persistMetadata", {})
        address, interface = told.get("sandbox_ip", ""), told.get("host_tap_name", "")
        table.add_row(one["sandboxId"], one["kind"], address, interface, one["owner"], one["state"], _policy(one))
    out.print(table)


@app.command()
def show(sandbox: Annotated[str, typer.Argument(help="Id of the sandbox.")], as_json: Json = False) -> None:
    """Show one network: its addresses, and its policy with secrets masked.

    Example: cube network show sbx123
    """
    network = _asked("/v1/network/get", {"sandboxId": sandbox}, as_json=as_json)["network"]
    if as_json:
        print_json(network)
        return
    for name in ("sandboxId", "kind", "owner", "state", "reason"):
        if network.get(name):
            out.print(f"{name}: {network[name]}", soft_wrap=True)
    for name, value in sorted(network.get("persistMetadata", {}).items()):
        out.print(f"{name}: {value}")
    out.print_json(data=network.get("policy", {}))


@app.command()
def health(as_json: Json = False) -> None:
    """Show whether the agent can hand out links, how many are ready, and by which way descriptors were got.

    Example: cube network health
    """
    answer = _asked("/cube.network.v1.NetworkAgent/Health", {}, as_json=as_json)
    if as_json:
        print_json(answer)
    else:
        out.print("ready" if answer.get("ready") else f"not ready: {answer.get('reason', '')}")
        for name in ("networks", "quarantined", "pool", "tapFiles"):
            out.print(f"{name}: {answer.get(name, 0)}")
    if not answer.get("ready"):
        raise typer.Exit(1)


def _place(text: str) -> str:
    if text and not re.fullmatch(r"[0-9.]+:[0-9]{1,5}", text):
        raise typer.BadParameter("an address and a port are wanted, such as 127.0.0.1:19090")
    return text


def agent(
    pprof_listen: Annotated[
        str, typer.Option(help="Loopback address:port that shows tasks, threads and a profile; none is opened.")
    ] = "",
    health_listen: Annotated[
        str, typer.Option(callback=_place, help="address:port of /healthz and /readyz; none is opened.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Run the network agent without the service: other programs ask it for links, see docs/network.md.

    Ends with Ctrl-C or SIGTERM; the networks stay, and the next run takes them over. `cube down` removes them.

    Examples:

        cube network-agent

        cube network-agent --pprof-listen 127.0.0.1:6060 --health-listen 127.0.0.1:19090
    """
    from cube.cli.network_agent import run

    try:
        require_root()
        settings = Settings(debug_listen=pprof_listen) if pprof_listen else Settings()
        asyncio.run(run(settings, health_listen))
    except (PermissionError, CubeError) as error:
        fail(str(error), as_json=as_json)


def _policy(network: dict[str, Any]) -> str:
    policy = network.get("policy", {})
    said = [f"{name} {len(policy[name])}" for name in ("allowOut", "denyOut", "rules") if policy.get(name)]
    return ", ".join(said) or "open"


def _asked(path: str, body: dict[str, Any], *, as_json: bool) -> Any:
    """What the agent answers; ends the command with what is wrong otherwise."""
    try:
        return _answer(path, body)
    except CubeError as error:
        fail(error.message, as_json=as_json)


def _answer(path: str, body: dict[str, Any]) -> Any:
    import httpx  # late: commands that ask nobody need not wait for it

    # Without TLS there is no authority to trust, and reading those of the web takes 36 ms.
    transport = httpx.HTTPTransport(uds=str(Settings().network_socket), verify=False)
    try:
        with httpx.Client(transport=transport, base_url="http://agent", timeout=_PATIENCE_S) as client:
            answer = client.post(path, json=body)
    except httpx.HTTPError as error:
        raise Unavailable("the network agent does not answer: the service has to run, and you to be root") from error
    if answer.status_code == SandboxNotFound.code and "sandboxId" in body:
        raise SandboxNotFound(body["sandboxId"])
    if not answer.is_success:
        raise CubeError(f"the network agent refused it ({answer.status_code}): {answer.text[:200]}")
    return answer.json()
