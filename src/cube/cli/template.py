"""``cube template``: what sandboxes are cloned from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cube.cli.output import Json, err, fail, out, print_json
from cube.cubelet.storage.images import ImageStore
from cube.master.templates.progress import Progress as Step
from cube.master.templates.progress import Report
from cube.model.errors import CubeError
from cube.model.template import ImageConfig, Template
from cube.settings import Settings, require_root

app = typer.Typer(help="Templates: what sandboxes are cloned from.")
T = TypeVar("T")

if TYPE_CHECKING:
    from cube.master.templates.builder import TemplateBuilder


@app.command("list")
def list_templates(as_json: Json = False) -> None:
    """Show the templates of this machine.

    Example: cube template list
    """
    _show(ImageStore(Settings()).load(), as_json=as_json)


@app.command()
def ensure(as_json: Json = False) -> None:
    """Build the default templates, base and code-interpreter-v1, unless they are there and unchanged.

    Example: cube template ensure
    """
    _show(_with_builder(lambda builder, report: builder.ensure_builtin(report), as_json=as_json), as_json=as_json)


@app.command()
def build(
    file: Annotated[
        Path, typer.Argument(help="Definition in TOML, see docs/templates.md.", exists=True, dir_okay=False)
    ],
    as_json: Json = False,
) -> None:
    """Build a template from a definition.

    Example: cube template build my-agent.toml
    """
    from cube.master.templates import definition as definitions

    try:
        definition = definitions.parse(file.read_text())
    except CubeError as error:
        fail(error.message, as_json=as_json)
    template = _with_builder(lambda builder, report: builder.build(definition, report), as_json=as_json)
    _show([template], as_json=as_json)


@app.command("import")
def import_image(
    image: Annotated[
        Path, typer.Argument(help="OCI layout directory or archive, or what `docker save` wrote.", exists=True)
    ],
    name: Annotated[str, typer.Option(help="Name of the template.")],
    tag: Annotated[str, typer.Option(help="Which image, where the file holds several.")] = "",
    user: Annotated[str, typer.Option(help="Default user; else the one that the image names.")] = "",
    as_json: Json = False,
) -> None:
    """Make a template of a container image that is on this machine. Nothing has to be installed in it.

    Examples:

        skopeo copy docker-daemon:my/image:1 oci:layout && cube template import layout --name my-image

        docker save my/image:1 -o image.tar && cube template import image.tar --name my-image
    """
    from cube.master.templates.definition import Definition, OciSource

    config = ImageConfig(user=user) if user else None
    definition = Definition(name=name, source=OciSource(path=image.resolve(), tag=tag), config=config)
    template = _with_builder(lambda builder, report: builder.build(definition, report), as_json=as_json)
    _show([template], as_json=as_json)


@app.command()
def delete(template: Annotated[str, typer.Argument(help="Id or name.")], as_json: Json = False) -> None:
    """Remove a template from this machine; sandboxes that were cloned from it go on.

    Example: cube template delete my-image
    """
    images = ImageStore(Settings())
    images.load()
    try:
        require_root()
        found = images.get(template)
        images.delete(found.template_id)
    except (PermissionError, CubeError) as error:
        fail(str(error), as_json=as_json)
    _show([found], as_json=as_json)


def _with_builder(work: Callable[[TemplateBuilder, Report], Awaitable[T]], *, as_json: bool) -> T:
    # Late: it brings most of the image pipeline along, which `cube status` need not wait for.
    from cube.master.templates.builder import TemplateBuilder

    settings = Settings()
    images = ImageStore(settings)

    async def run(report: Report) -> T:
        await asyncio.to_thread(images.load)
        return await work(TemplateBuilder(settings, images), report)

    try:
        require_root()
        with _bar(hidden=as_json) as (display, task):

            def report(step: Step) -> None:
                display.update(task, completed=step.fraction, description=step.message)

            return asyncio.run(run(report))
    except (PermissionError, CubeError) as error:
        fail(str(error), as_json=as_json)


@contextmanager
def _bar(*, hidden: bool) -> Iterator[tuple[Progress, TaskID]]:
    """One bar over a whole build, on stderr, when that is a terminal."""
    with Progress(
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=err,
        transient=True,
        disable=hidden or not err.is_terminal,
    ) as display:
        yield display, display.add_task("", total=1.0)


def _show(templates: list[Template], *, as_json: bool) -> None:
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
        "cubeCaFingerprint": template.cube_ca.fingerprint if template.cube_ca else None,
    }
