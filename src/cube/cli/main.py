"""The command ``cube``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from cube import __version__
from cube.cli import bench, demo, doctor, egress, network, snapshot, template, up, vm, volume
from cube.cli.output import Json, out, print_json

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
app.add_typer(egress.app, name="egress")
app.add_typer(network.app, name="network")
app.command("network-agent")(network.agent)
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(template.app, name="template")
app.add_typer(vm.app, name="vm")
app.add_typer(volume.app, name="volume")


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version; with `--json` that of every part of this node, its commit and the time of its build.

    Example: cube version --json
    """
    if not as_json:
        out.print(__version__)
        return
    from cube.cubelet.components import components
    from cube.settings import Settings

    print_json(
        [{"component": one.component, **asdict(one.build), "source": one.source} for one in components(Settings())]
    )


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
