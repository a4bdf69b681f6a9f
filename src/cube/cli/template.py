"""``cube template``: what sandboxes are cloned from."""

from __future__ import annotations

import typer
from rich.table import Table

from cube.cli.output import Json, out, print_json
from cube.cubelet.storage.images import ImageStore
from cube.model.template import Template
from cube.settings import Settings

app = typer.Typer(help="Templates: what sandboxes are cloned from.")


@app.command("list")
def list_templates(as_json: Json = False) -> None:
    """Show the templates of this machine.

    Example: cube template list
    """
    templates = ImageStore(Settings()).load()
    if as_json:
        print_json([_row(template) for template in templates])
        return
    table = Table("template", "names", "size", "created", box=None, pad_edge=False)
    for template in templates:
        size = f"{template.image_bytes >> 20} MiB"
        table.add_row(template.template_id, ", ".join(template.names), size, f"{template.created_at:%Y-%m-%d %H:%M}")
    out.print(table)


def _row(template: Template) -> dict[str, object]:
    return {
        "templateID": template.template_id,
        "names": list(template.names),
        "imageBytes": template.image_bytes,
        "createdAt": template.created_at.isoformat(),
        "fingerprint": template.fingerprint,
        "codeInterpreter": template.code_interpreter,
    }
