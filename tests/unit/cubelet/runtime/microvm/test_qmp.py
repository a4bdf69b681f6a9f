"""The QMP state machine: what QEMU may say when, and what ends the conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.runtime.microvm.qmp import LONGEST, Answer, Event, Protocol, QmpError, Ready, State

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, "capabilities": []}}


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


def ready() -> Protocol:
    """A conversation in which commands may be sent."""
    protocol = Protocol()
    protocol.feed(line(GREETING))
    agreed = json.loads(protocol.to_send())
    protocol.feed(line({"return": {}, "id": agreed["id"]}))
    return protocol


def test_it_begins_with_a_greeting_and_an_agreement() -> None:
    protocol = Protocol()
    assert protocol.to_send() == b""
    assert protocol.feed(line(GREETING)) == []
    sent = json.loads(protocol.to_send())
    assert sent["execute"] == "qmp_capabilities"
    assert protocol.feed(line({"return": {}, "id": sent["id"]})) == [Ready("7.2.22")]
    assert protocol.state is State.READY
    assert protocol.to_send() == b""


def test_no_command_before_that() -> None:
    with pytest.raises(QmpError):
        Protocol().command("stop")


def test_answers_belong_to_their_commands_whatever_the_order() -> None:
    protocol = ready()
    first, _ = protocol.command("stop")
    second, sent = protocol.command("query-status", {"a": 1})
    assert json.loads(sent) == {"execute": "query-status", "arguments": {"a": 1}, "id": second}
    answers = protocol.feed(line({"return": {"x": 1}, "id": second}) + line({"return": {}, "id": first}))
    assert answers == [Answer(second, {"x": 1}), Answer(first, {})]


def test_a_refusal_says_why() -> None:
    protocol = ready()
    number, _ = protocol.command("stop")
    answer = {"error": {"class": "GenericError", "desc": "no such thing"}, "id": number}
    assert protocol.feed(line(answer)) == [Answer(number, refused="no such thing")]


def test_events_come_at_any_time() -> None:
    protocol = Protocol()
    event = line({"event": "STOP", "data": {"a": 1}, "timestamp": {}})
    assert protocol.feed(event + line(GREETING) + event) == [Event("STOP", {"a": 1})] * 2
    assert ready().feed(line({"event": "RESUME"})) == [Event("RESUME", {})]


@given(st.lists(st.integers(1, 40), max_size=30))
def test_it_does_not_matter_how_bytes_are_cut(sizes: list[int]) -> None:
    data = line(GREETING) + line({"event": "STOP"}) + line({"event": "RESUME"})
    protocol, found = Protocol(), []
    for size in sizes:
        found += protocol.feed(data[:size])
        data = data[size:]
    found += protocol.feed(data)
    assert found == [Event("STOP", {}), Event("RESUME", {})]
    assert protocol.state is State.NEGOTIATING


@pytest.mark.parametrize(
    "said",
    [
        b"hello\n",
        b"[]\n",
        b"1\n",
        b'{"QMP": {}}\n',
        b'{"QMP": {"version": {"qemu": {"major": "x"}}}}\n',
        b'{"return": {}, "id": 1}\n',
        b'{"event": 5}\n',
        b'{"event": "STOP", "data": 5}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_greeting_ends_it(said: bytes) -> None:
    with pytest.raises(QmpError):
        Protocol().feed(said)


@pytest.mark.parametrize(
    "said",
    [
        {"return": {}},
        {"return": {}, "id": 999},
        {"return": {}, "id": "1"},
        {"return": {}, "id": True},
        {"id": 2},
        {"error": "x", "id": 2},
    ],
)
def test_answers_that_were_not_asked_for_end_it(said: dict[str, Any]) -> None:
    protocol = ready()
    protocol.command("stop")
    with pytest.raises(QmpError):
        protocol.feed(line(said))


def test_an_answer_counts_once() -> None:
    protocol = ready()
    number, _ = protocol.command("stop")
    protocol.feed(line({"return": {}, "id": number}))
    with pytest.raises(QmpError):
        protocol.feed(line({"return": {}, "id": number}))


def test_a_refused_agreement_ends_it() -> None:
    protocol = Protocol()
    protocol.feed(line(GREETING))
    number = json.loads(protocol.to_send())["id"]
    with pytest.raises(QmpError, match="too old"):
        protocol.feed(line({"error": {"desc": "too old"}, "id": number}))


def test_a_message_has_an_end() -> None:
    protocol = Protocol()
    with pytest.raises(QmpError):
        protocol.feed(b"x" * (LONGEST + 1))


def test_reasons_are_cut() -> None:
    protocol = ready()
    number, _ = protocol.command("stop")
    (answer,) = protocol.feed(line({"error": {"desc": "x" * 10_000}, "id": number}))
    assert isinstance(answer, Answer)
    assert answer.refused == "x" * 500
