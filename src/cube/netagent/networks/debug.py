"""What the agent is doing, for whoever looks for a fault: off unless asked for, on the loopback address alone.

``/debug/tasks``    every asyncio task and where it waits
``/debug/threads``  every thread and where it is
``/debug/profile``  where the event loop's thread spends ``?seconds=``, sampled
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import traceback
from collections import Counter
from typing import Final
from urllib.parse import parse_qs

from cube.envd.asgi import Receive, Scope, Send, respond, respond_json

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_INTERVAL: Final = 0.005
_LONGEST_PROFILE: Final = 60.0
_DEEPEST: Final = 64


async def debug_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/debug/tasks":
        text = tasks()
    elif path == "/debug/threads":
        text = threads()
    elif path == "/debug/profile":
        seconds = _seconds(scope.get("query_string", b""))
        text = await asyncio.to_thread(profile, threading.get_ident(), seconds)
    else:
        await respond_json(send, 404, {"message": "there are /debug/tasks, /debug/threads and /debug/profile"})
        return
    await respond(send, 200, text.encode(), [_TEXT])


def tasks() -> str:
    """Every task of the running loop."""
    said = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        task.print_stack(limit=_DEEPEST, file=said)
    return said.getvalue()


def threads() -> str:
    """Every thread of the process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame, _DEEPEST))}" for ident, frame in frames
    )


def profile(ident: int, seconds: float) -> str:
    """How often a thread was met in which stack, the most frequent first. Blocks for the time."""
    seen: Counter[str] = Counter()
    stop = threading.Event()
    for _ in range(max(1, int(seconds / _INTERVAL))):
        frame = sys._current_frames().get(ident)
        if frame is not None:
            names = [f"{one.filename}:{one.lineno}:{one.name}" for one in traceback.extract_stack(frame, _DEEPEST)]
            seen[";".join(names)] += 1
        stop.wait(_INTERVAL)
    return "".join(f"{stack} {count}\n" for stack, count in seen.most_common())


def _seconds(query: bytes) -> float:
    asked = parse_qs(query.decode("latin-1")).get("seconds", ["5"])[0]
    try:
        return min(max(float(asked), _INTERVAL), _LONGEST_PROFILE)
    except ValueError:
        return 5.0
