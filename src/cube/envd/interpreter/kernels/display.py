"""Has what a Python cell displays and returns sent as results. Needs IPython."""

from __future__ import annotations

from typing import Any

from IPython.core.displayhook import DisplayHook  # type: ignore[import-not-found]
from IPython.core.displaypub import DisplayPublisher  # type: ignore[import-not-found]
from traitlets import Any as AnyTrait  # type: ignore[import-not-found]


class ResultHook(DisplayHook):  # type: ignore[misc]
    """Sends the value of a cell's last expression."""

    results = AnyTrait()

    def write_output_prompt(self) -> None:
        """Nothing: there is no terminal."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Send the value, in all its representations."""
        if format_dict:
            self.results.send(format_dict, main=True)

    def finish_displayhook(self) -> None:
        """Nothing: there is no line to end."""


class ResultPublisher(DisplayPublisher):  # type: ignore[misc]
    """Sends what ``display()`` shows."""

    results = AnyTrait()

    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Send one bundle; metadata and updates of earlier displays have no place in the protocol."""
        self.results.send(data, main=False)

    def clear_output(self, wait: bool = False) -> None:
        """Nothing: what has been sent stays."""
