"""The command ``cube``."""

from __future__ import annotations

import typer

from cube import __version__
from cube.cli import bench, demo, doctor, snapshot, template, up, volume
from cube.cli.output import out

app = typer.Typer(
    help="Self-hosted sandboxes for AI agents, compatible with E2B. Settings are read from CUBE_… variables.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)

app.command()(up.up)
app.command()(up.down)
app.command()(up.status)
app.command()(up.env)
app.command()(doctor.doctor)
app.command()(demo.demo)
app.add_typer(bench.app, name="bench")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(template.app, name="template")
app.add_typer(volume.app, name="volume")


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
