"""The command ``cube``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any, ClassVar

import typer

from cube import __version__
from cube.cli.lazy import LazyGroup
from cube.cli.output import Json, fail, out, print_json


class _Commands(LazyGroup):
    places: ClassVar = {
        "up": "cube.cli.up:up",
        "down": "cube.cli.up:down",
        "status": "cube.cli.up:status",
        "env": "cube.cli.up:env",
        "doctor": "cube.cli.doctor:doctor",
        "demo": "cube.cli.demo:demo",
        "bench": "cube.cli.bench:app",
        "egress": "cube.cli.egress:app",
        "network": "cube.cli.network:app",
        "network-agent": "cube.cli.network:agent",
        "snapshot": "cube.cli.snapshot:app",
        "template": "cube.cli.template:app",
        "vm": "cube.cli.vm:app",
        "volume": "cube.cli.volume:app",
    }

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for. Every command reads the settings; here they are refused for all."""
        try:
            return super().invoke(ctx)
        except ValueError as error:
            from cube.cli.refusal import about_settings

            reason = about_settings(error)
            if reason is None:
                raise
            fail(reason, as_json="--json" in sys.argv, code=2)


app = typer.Typer(
    cls=_Commands,
    help="Self-hosted sandboxes for AI agents, compatible with E2B. Settings are read from CUBE_… variables.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


@app.callback()
def _cube() -> None:
    """Makes a group of it: with one command of its own it would be that command."""


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
