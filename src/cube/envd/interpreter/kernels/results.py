"""Results on their way to the service, cut to what a line can carry."""

from __future__ import annotations

import json
from typing import Any

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
