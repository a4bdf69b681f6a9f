"""Turns what a cell displays and returns into ``result`` events. Needs IPython."""

from __future__ import annotations

import json
from typing import Any

from IPython.core.displayhook import DisplayHook  # type: ignore[import-not-found]
from IPython.core.displaypub import DisplayPublisher  # type: ignore[import-not-found]
from traitlets import Any as AnyTrait  # type: ignore[import-not-found]

from .channel import MAX_LINE, Channel
from .encoding import drop_biggest, to_json
from .streams import Capture

#: Room in a line for everything but the values.
_ENVELOPE = 4096


class Results:
    """Sends MIME bundles, after all text that was written before them."""

    def __init__(self, channel: Channel, capture: Capture) -> None:
        self._channel = channel
        self._capture = capture

    def send(self, bundle: dict[str, Any], *, main: bool) -> None:
        """Send the representations that JSON can carry and that fit into a line, biggest dropped first."""
        encoded = {mime: text for mime, value in bundle.items() if (text := to_json(value)) is not None}
        dropped = drop_biggest(encoded, MAX_LINE - _ENVELOPE)
        if dropped:
            self._channel.send({"type": "stderr", "text": f"Too big to be sent and left out: {', '.join(dropped)}\n"})
        if encoded:
            self._capture.drain()
            self._channel.send_line(_result_line(encoded, main))


def _result_line(encoded: dict[str, str], main: bool) -> bytes:
    data = ",".join(f"{json.dumps(mime)}:{text}" for mime, text in encoded.items())
    return f'{{"type":"result","main":{json.dumps(main)},"data":{{{data}}}}}'.encode()


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
