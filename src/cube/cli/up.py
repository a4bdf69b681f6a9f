"""``cube up``, ``down``, ``status`` and ``env``: the service's life."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from cube import __version__
from cube.cli import daemon
from cube.cli.output import Json, err, fail, out, print_json
from cube.model.errors import CubeError, InvalidInput
from cube.settings import Settings, require_root

#: With authentication off any key will do; clients of E2B before 2.60 insist on this form.
_ANY_KEY = "e2b_" + "0" * 40


def variables(settings: Settings) -> dict[str, str]:
    """What an E2B client must be told to use this service."""
    return {
        "E2B_API_URL": settings.public_url,
        "E2B_SANDBOX_URL": settings.public_url,
        "E2B_VOLUME_API_URL": settings.public_url,
        "E2B_API_KEY": settings.api_key or _ANY_KEY,
    }


def domain_variables(settings: Settings) -> dict[str, str]:
    """What an E2B client must be told that finds sandboxes by their host names; raises ``InvalidInput`` without TLS."""
    if settings.tls == "off":
        raise InvalidInput("clients speak TLS to a domain: set CUBE_TLS to `also` or `only`", field="CUBE_TLS")
    values = {"E2B_DOMAIN": settings.public_domain, "E2B_API_KEY": settings.api_key or _ANY_KEY}
    if not settings.tls_certificate:
        values["SSL_CERT_FILE"] = str(settings.tls_dir / "bundle.pem")
        values["NODE_EXTRA_CA_CERTS"] = str(settings.tls_dir / "ca.pem")
    return values


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    as_json: Json = False,
) -> None:
    """Start the service. Ends with Ctrl-C (then nothing is left behind) or, in the background, with `cube down`.

    Examples:

        cube up --detach

        CUBE_PORT=8080 CUBE_API_KEY=e2b_0123 cube up
    """
    settings = Settings()
    try:
        require_root()
        if detach:
            _up_detached(settings, as_json=as_json)
        else:
            _up_here(settings)
    except (PermissionError, CubeError) as error:
        fail(str(error), as_json=as_json)


def _up_detached(settings: Settings, *, as_json: bool) -> None:
    pid = daemon.running_pid(settings)
    started = pid is None
    if pid is None:
        pid = daemon.start_detached(settings)
    if as_json:
        print_json({"pid": pid, "started": started, "url": settings.public_url})
    else:
        word = "started" if started else "runs already"
        out.print(f"cube {word}: {settings.public_url} (process {pid}, log {daemon.log_file(settings)})")


def _up_here(settings: Settings) -> None:
    import uvloop

    from cube.cli import service

    with daemon.only_one(settings):
        interrupted = uvloop.run(service.serve(settings))
    if interrupted:
        err.print("ending all sandboxes…")
        asyncio.run(service.tear_down(settings))


def down(as_json: Json = False) -> None:
    """End the service and every sandbox, and remove all that they left on the machine. Templates and records stay.

    Works after a crash of the service too. Example: cube down
    """
    # Late, as in _up_here: the whole service takes most of a second to import, which other commands need not wait for.
    from cube.cli import service

    settings = Settings()
    try:
        require_root()
        stopped = daemon.stop(settings)
        ended = asyncio.run(service.tear_down(settings))
    except (PermissionError, CubeError) as error:
        fail(str(error), as_json=as_json)
    if as_json:
        print_json({"stopped": stopped, "sandboxes_ended": ended})
    else:
        out.print(f"{'The service was ended' if stopped else 'No service was running'}; {ended} sandboxes were ended.")


def status(as_json: Json = False) -> None:
    """Show whether the service runs and which sandboxes it has. Exits with 1 when it does not answer.

    Example: cube status --json
    """
    settings = Settings()
    pid = daemon.running_pid(settings)
    report = _report(settings, pid)
    if as_json:
        print_json(report)
    elif pid is None:
        out.print("cube is not running; `cube up --detach` starts it")
    else:
        _show(report)
    if not report["answers"]:
        raise typer.Exit(1)


def _report(settings: Settings, pid: int | None) -> dict[str, object]:
    sandboxes: list[dict[str, object]] = []
    healthy = pid is not None and daemon.answers(settings)
    if healthy:
        import httpx

        headers = {"X-API-KEY": settings.api_key} if settings.api_key else {}
        answer = httpx.get(f"{settings.public_url}/v2/sandboxes", headers=headers, timeout=10, trust_env=False)
        sandboxes = answer.json() if answer.is_success else []
    return {
        "version": __version__,
        "instance": settings.instance,
        "pid": pid,
        "answers": healthy,
        "url": settings.public_url,
        "sandboxes": sandboxes,
    }


def _show(report: dict[str, object]) -> None:
    answers = "answers" if report["answers"] else "[red]does not answer[/red]"
    out.print(f"cube {report['version']} {answers} at {report['url']} (process {report['pid']})")
    sandboxes = report["sandboxes"]
    if not isinstance(sandboxes, list) or not sandboxes:
        out.print("no sandboxes")
        return
    table = Table("sandbox", "template", "state", "isolation", "started", "ends", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for sandbox in sandboxes:
        template = sandbox.get("alias") or sandbox["templateID"]
        times = (datetime.fromisoformat(sandbox[name]).astimezone() for name in ("startedAt", "endAt"))
        shown = (f"{time:%H:%M:%S}" for time in times)
        table.add_row(sandbox["sandboxID"], template, sandbox["state"], sandbox.get("isolation", ""), *shown)
    out.print(table)


def env(
    domain: Annotated[bool, typer.Option("--domain", help="By host names over TLS, for CUBE_TLS.")] = False,
    as_json: Json = False,
) -> None:
    """Print the variables that point an E2B client at this service.

    Examples:

        eval "$(cube env)"

        eval "$(CUBE_TLS=also cube env --domain)"
    """
    try:
        values = domain_variables(Settings()) if domain else variables(Settings())
    except CubeError as error:
        fail(str(error), as_json=as_json)
    if as_json:
        print_json(values)
        return
    for name, value in values.items():
        out.print(f"export {name}={value}", soft_wrap=True)


def export(settings: Settings) -> None:
    """Set those variables in this process, for a client that runs in it."""
    os.environ.update(variables(settings))
