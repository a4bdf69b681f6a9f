"""``cube snapshot``: the snapshots of the running service."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.table import Table

from cube.cli.client import ApiClient
from cube.cli.output import Json, fail, out, print_json
from cube.model.errors import CubeError, SnapshotNotFound
from cube.settings import Settings

app = typer.Typer(help="Snapshots: sandboxes as they were, to start others from.")
_PAGE = 100

Sandbox = Annotated[str, typer.Argument(help="Id of a sandbox.")]
Reference = Annotated[str, typer.Argument(help="Id, name or name:tag of a snapshot.")]


@app.command("list")
def list_snapshots(
    sandbox: Annotated[str, typer.Option(help="Only those of this sandbox.")] = "",
    name: Annotated[str, typer.Option(help="Only those of this name, with all its tags.")] = "",
    as_json: Json = False,
) -> None:
    """Show the snapshots of the running service, newest first.

    Example: cube snapshot list --name prepared
    """
    try:
        with ApiClient(Settings()) as api:
            snapshots = _all(api, sandboxID=sandbox, name=name)
    except CubeError as error:
        fail(error.message, as_json=as_json)
    _show(snapshots, as_json=as_json)


@app.command()
def create(
    sandbox: Sandbox,
    name: Annotated[str, typer.Option(help="name or name:tag; a snapshot that has it is replaced.")] = "",
    as_json: Json = False,
) -> None:
    """Capture a running or paused sandbox, which goes on.

    Example: cube snapshot create i8q2m0v5x7c1k9d4f6h3z --name prepared
    """
    try:
        with ApiClient(Settings()) as api:
            taken = api.post(f"/sandboxes/{quote(sandbox, safe='')}/snapshots", {"name": name} if name else {})
    except CubeError as error:
        fail(error.message, as_json=as_json)
    _show([taken], as_json=as_json)


@app.command()
def delete(snapshot: Reference, as_json: Json = False) -> None:
    """Delete a snapshot; sandboxes that were created from it go on.

    Example: cube snapshot delete prepared
    """
    try:
        with ApiClient(Settings()) as api:
            found = _find(api, snapshot)
            api.delete(f"/templates/{found['snapshotID']}")
    except CubeError as error:
        fail(error.message, as_json=as_json)
    _show([found], as_json=as_json)


@app.command()
def rollback(sandbox: Sandbox, snapshot: Reference, as_json: Json = False) -> None:
    """Make a running sandbox what a snapshot holds; its processes and connections end.

    Example: cube snapshot rollback i8q2m0v5x7c1k9d4f6h3z prepared
    """
    try:
        with ApiClient(Settings()) as api:
            answer = api.post(f"/sandboxes/{quote(sandbox, safe='')}/rollback", {"snapshotID": snapshot})
    except CubeError as error:
        fail(error.message, as_json=as_json)
    if as_json:
        print_json(answer)
    else:
        out.print(f"{answer['sandboxID']} is what {answer['snapshotID']} holds")


def _find(api: ApiClient, reference: str) -> Any:
    name = reference if reference.startswith("snap-") or ":" in reference else f"{reference}:default"
    found = _all(api, name=name)
    if not found:
        raise SnapshotNotFound(reference)
    return found[0]


def _all(api: ApiClient, **filters: str) -> list[dict[str, Any]]:
    """Every page of a listing."""
    query = urlencode({key: value for key, value in filters.items() if value} | {"limit": _PAGE})
    return api.pages(f"/snapshots?{query}")


def _show(snapshots: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(snapshots)
        return
    table = Table("snapshot", "name", "sandbox", "holds", "created", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for snapshot in snapshots:
        holds = "files, memory" if snapshot["memory"] else "files"
        created = datetime.fromisoformat(snapshot["createdAt"]).astimezone()
        names = ", ".join(snapshot["names"])
        table.add_row(snapshot["snapshotID"], names, snapshot["originSandboxID"], holds, f"{created:%Y-%m-%d %H:%M}")
    out.print(table)
