"""Rules and secrets that change while a sandbox is talking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cube.model.errors import SecretNotFound
from cube.model.secrets import fill
from support.egress.world import Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: api.a.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def websocket(box: Box) -> Connection:
    reader, writer = await box.client().connect("api.a.test", 443, tls=True)
    writer.write(UPGRADE)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 101")
    await echoed((reader, writer))
    return reader, writer


async def echoed(connection: Connection) -> None:
    reader, writer = connection
    writer.write(b"\x82\x85\0\0\0\0hello")
    assert await asyncio.wait_for(reader.readexactly(7), 10) == b"\x82\x05hello"


async def is_cut(connection: Connection) -> bool:
    try:
        return await asyncio.wait_for(connection[0].read(1), 5) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def test_open_streams_are_cut_when_they_are_no_longer_allowed(world: EgressWorld, box: Box) -> None:
    other = world.box()
    for one in (box, other):
        await one.allow(rule(host="api.a.test"))
    mine, theirs = await websocket(box), await websocket(other)

    await box.allow(rule(host="www.a.test"))

    assert await is_cut(mine)
    await echoed(theirs)
    theirs[1].close()


async def test_a_long_answer_is_cut_when_the_policy_goes(box: Box) -> None:
    await box.allow(rule(host="api.a.test"))
    reader, writer = await box.client().connect("api.a.test", 80, tls=False)
    writer.write(b"GET /events/10000 HTTP/1.1\r\nhost: api.a.test\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"data:"), 10)

    await box.world.egress.remove(box.address)

    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1 << 20), 10)


async def test_open_streams_go_on_when_rules_are_only_added(box: Box) -> None:
    await box.allow(rule(host="api.a.test"))
    connection = await websocket(box)

    await box.allow(rule(host="api.a.test"), rule(host="www.a.test"))

    await echoed(connection)
    connection[1].close()


class Kept:
    """Secrets that change."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._callbacks: list[Callable[[str], None]] = []

    def resolve(self, text: str) -> str:
        return fill(text, self._value)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def set(self, name: str, value: str | None) -> None:
        if value is None:
            del self.values[name]
        else:
            self.values[name] = value
        for callback in self._callbacks:
            callback(name)

    def _value(self, name: str) -> str:
        try:
            return self.values[name]
        except KeyError:
            raise SecretNotFound(name) from None


async def test_secrets_that_rules_name_follow_their_values(world: EgressWorld, box: Box) -> None:
    kept = Kept()
    made = rule(host="api.a.test")
    made["action"]["inject"] = [{"header": "X-Key", "secret": "${e2b.secrets.key}"}]
    await box.allow(made)
    assert (await box.get("https://api.a.test/")).reason == "secret_missing_in_policy"

    world.egress.use_secrets(kept)
    for value in ("first", "second"):
        kept.set("key", value)
        await until(box, value)
    kept.set("key", None)
    await until(box, None)

    assert world.internet.seen[-1].get("x-key") == "second"
    assert all("e2b.secrets" not in str(one.headers) for one in world.internet.seen)


async def until(box: Box, value: str | None) -> None:
    """Until requests carry a value, or are refused."""
    for _ in range(200):
        reply = await box.get("https://api.a.test/")
        if value is None and reply.reason == "secret_missing_in_policy":
            return
        if reply.status == 200 and dict(reply.json["headers"]).get("x-key") == value:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{value} is not in force")
