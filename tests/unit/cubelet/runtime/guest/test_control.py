"""What a sandbox may make the host keep: an answer that nobody takes is bounded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cube.cubelet.runtime.guest import control
from cube.cubelet.runtime.guest.control import ControlConnection
from cube.cubelet.runtime.guest.link import Inotify, Link, Listener, Message
from cube.cubelet.runtime.guest.wire import BODY_MAX, Kind
from cube.model.errors import SandboxNotRunning


class ToldLink(Link):
    """Sends nothing; what comes is said by the test."""

    max_id = 0xFFFF

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.ids: list[int] = []
        self.closed = False

    def listen(self, listener: Listener) -> None:
        self.listener = listener

    def send(self, kind: int, request_id: int, body: bytes, attached: Sequence[Inotify] = ()) -> None:
        self.ids.append(request_id)

    def close(self) -> None:
        self.closed = True


async def test_answers_that_nobody_takes_end_the_connection_before_they_fill_the_memory() -> None:
    link = ToldLink()
    connection = ControlConnection(link, "sbx")
    answers = connection.stream(Kind.LIST, seconds=30)
    body = bytes(BODY_MAX)
    connection._loop.call_soon(lambda: connection.deliver(Message(Kind.ENTRIES, link.ids[0], body)))
    assert (await anext(answers)).body == body
    sent = 0
    while not connection.closed.is_set():
        assert sent <= control.ANSWERS_MAX
        connection.deliver(Message(Kind.ENTRIES, link.ids[0], body))
        sent += len(body)
    assert link.closed
    await answers.aclose()
    with pytest.raises(SandboxNotRunning):
        await connection.request(Kind.PING)


async def test_answers_that_are_taken_may_be_as_long_as_they_like() -> None:
    link = ToldLink()
    connection = ControlConnection(link, "sbx")
    answers = connection.stream(Kind.LIST, seconds=30)
    body = bytes(BODY_MAX)
    connection._loop.call_soon(lambda: connection.deliver(Message(Kind.ENTRIES, link.ids[0], body)))
    for _ in range(2 * control.ANSWERS_MAX // BODY_MAX):
        await anext(answers)
        connection.deliver(Message(Kind.ENTRIES, link.ids[0], body))
    assert not connection.closed.is_set()
    await answers.aclose()
    connection.close()
