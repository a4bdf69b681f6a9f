"""``cube volume``: the volumes of the running service."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from cube.cli.client import ApiClient
from cube.cli.output import Json, fail, out, print_json
from cube.model.errors import CubeError, VolumeNotFound
from cube.settings import Settings

app = typer.Typer(help="Volumes: directories that outlive sandboxes.")
_MIB = 1 << 20


@app.command("list")
def list_volumes(as_json: Json = False) -> None:
    """Show the volumes of the running service and how much of them is used.

    Example: cube volume list
    """
    try:
        with ApiClient(Settings()) as api:
            volumes = api.get("/volumes")
    except CubeError as error:
        fail(error.message, as_json=as_json)
    _show(volumes, as_json=as_json)


@app.command()
def delete(volume: Annotated[str, typer.Argument(help="Id or name.")], as_json: Json = False) -> None:
    """Remove a volume with everything in it. Refused while a sandbox has it.

    Example: cube volume delete my-data
    """
    try:
        with ApiClient(Settings()) as api:
            found = _find(api, volume)
            api.delete(f"/volumes/{found['volumeID']}")
    except CubeError as error:
        fail(error.message, as_json=as_json)
    _show([found], as_json=as_json)


def _find(api: ApiClient, wanted: str) -> Any:
    for volume in api.get("/volumes"):
        if wanted in (volume["volumeID"], volume["name"]):
            return volume
    raise VolumeNotFound(wanted)


def _show(volumes: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(volumes)
        return
    table = Table("volume", "name", "used", "of", "created", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for volume in volumes:
        sizes = (f"{volume.get(field, 0) // _MIB} MiB" for field in ("usedBytes", "quotaBytes"))
        created = datetime.fromisoformat(volume["createdAt"]).astimezone()
        table.add_row(volume["volumeID"], volume["name"], *sizes, f"{created:%Y-%m-%d %H:%M}")
    out.print(table)
