"""IPython's shell without a terminal. Needs IPython in the image."""

from __future__ import annotations

import builtins
import os
from typing import Any

from IPython.core.interactiveshell import InteractiveShell  # type: ignore[import-not-found]
from traitlets.config import Config  # type: ignore[import-not-found]

from . import formats, hooks
from .channel import Channel
from .display import ResultHook, ResultPublisher
from .results import Results


class Shell(InteractiveShell):  # type: ignore[misc]
    """No history file, no completer, no colours; child processes write to our pipes."""

    system = InteractiveShell.system_raw
    channel: Channel | None = None
    error_sent = False

    def init_completer(self) -> None:
        """Nothing completes here; leaving it out saves 15 ms of imports."""

    def enable_gui(self, gui: str | None = None) -> None:
        """There is no window system; ``%matplotlib`` calls this for every backend."""

    def ask_exit(self) -> None:
        """``exit()`` and ``quit()`` leave the context alive, as in Jupyter; contexts are removed through the API."""

    def connect(self, channel: Channel, results: Results) -> None:
        """Send results and errors to the service from now on."""
        self.channel = channel
        self.displayhook.results = results
        self.display_pub.results = results

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        self.send_error(etype.__name__, evalue, "\n".join(stb))

    def send_error(self, name: str, value: object, traceback: str) -> None:
        """Report why the cell failed; only the first reason of a cell counts."""
        if self.channel is not None and not self.error_sent:
            self.error_sent = True
            self.channel.send({"type": "error", "name": name, "value": _text(value), "traceback": traceback})


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - an exception of the user's may be unable to print itself
        return f"<str() failed: {type(error).__name__}>"


def make_shell() -> Shell:
    """The one shell of this process, ready for cells but not connected."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    shell: Shell = Shell.instance(
        config=_configuration(), displayhook_class=ResultHook, display_pub_class=ResultPublisher
    )
    formats.install(shell.display_formatter)
    hooks.install()
    builtins.input = hooks.refuse_input
    warm_up(shell)
    return shell


def _configuration() -> Any:
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.autocall = 0
    return config


def warm_up(shell: Shell) -> None:
    """Run IPython's paths once, so that the first cell finds them warm."""
    shell.run_cell("None", store_history=False, silent=True)
    shell.display_formatter.format(0)
