"""What the checks are written with: a pytest plugin that runs inside the environment of one client version.

Checks are coroutines; the client that they get is the blocking or the asynchronous one (``--colour``) behind one face:
everything is awaited. The face notes what is used of the client, and a check that says it shows a method but did not
use it fails.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., Any])
#: Classes whose instances and methods are seen through a face; everything else is plain data.
FACED = (
    *("Sandbox", "Commands", "Pty", "Filesystem", "Git", "CommandHandle", "CommandInputHandle", "WatchHandle"),
    *("SandboxPaginator", "SnapshotPaginator", "SecretPaginator", "Volume", "Secret", "Template", "E2B"),
)


def shows(*methods: str, since: str = "2.31", only: str | None = None, way: str | None = None) -> Callable[[F], F]:
    """Mark a check: the methods that it proves, the first version that has them, the one colour or way it is for.

    All arguments are literals, because they are also read without running anything.
    """

    def mark(check: F) -> F:
        check.shows = " ".join(methods).split()  # type: ignore[attr-defined]
        return check

    return mark


class Face:
    """A client's class or object: what is called is awaited, what is used is noted in ``used``."""

    def __init__(self, subject: Any, blocking: bool, used: set[str]) -> None:
        self._subject = subject
        self._blocking = blocking
        self._used = used

    def __getattr__(self, name: str) -> Any:
        kind = self._subject if isinstance(self._subject, type) else type(self._subject)
        self._used.add(f"{_plain(kind)}.{name}")
        value = getattr(self._subject, name)
        return self._calling(value) if inspect.isroutine(value) else self._faced(value)

    def _calling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            arguments = tuple(map(_bare, arguments))
            named = {key: _bare(value) for key, value in named.items()}
            if self._blocking:
                return self._faced(await asyncio.to_thread(function, *arguments, **named))
            result = function(*arguments, **named)
            return self._faced(await result if inspect.isawaitable(result) else result)

        return call

    def _faced(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._faced(item) for item in value]
        kind = value if isinstance(value, type) else type(value)
        if _plain(kind) in FACED and kind.__module__.startswith("e2b"):
            return Face(value, self._blocking, self._used)
        return value

    async def __aenter__(self) -> Face:
        enter = self._calling(getattr(self._subject, "__enter__" if self._blocking else "__aenter__"))
        return await enter()

    async def __aexit__(self, *error: Any) -> None:
        leave = self._calling(getattr(self._subject, "__exit__" if self._blocking else "__aexit__"))
        await leave(*error)

    @property
    def bare(self) -> Any:
        """What is behind the face."""
        return self._subject


def _plain(kind: type) -> str:
    return kind.__name__.removeprefix("Async")


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value.bare if isinstance(value, Face) else value


class Client:
    """The client of this environment in one colour."""

    def __init__(self, blocking: bool) -> None:
        import e2b
        import e2b_code_interpreter

        self.blocking = blocking
        self.used: set[str] = set()
        #: Exceptions and types, which have no colour.
        self.types: ModuleType = e2b
        self.interpreter: ModuleType = e2b_code_interpreter

    def __getattr__(self, name: str) -> Any:
        """A class of the client by its plain name; ``Sandbox`` is the code interpreter's, which is the other's too."""
        module = self.interpreter if name == "Sandbox" else self.types
        coloured = name if self.blocking or name == "E2B" else f"Async{name}"
        return Face(getattr(module, coloured), self.blocking, self.used)

    def face(self, subject: Any, *, blocking: bool | None = None) -> Face:
        """A face for an object of the client that a check has made itself; of its own colour unless said otherwise."""
        return Face(subject, self.blocking if blocking is None else blocking, self.used)

    @asynccontextmanager
    async def sandbox(self, template: str = "base", **wishes: Any) -> AsyncIterator[Any]:
        """A sandbox that is ended at the end of the block, whatever has become of it."""
        sandbox = await self.Sandbox.create(template, **wishes)
        try:
            yield sandbox
        finally:
            await sandbox.kill()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--colour", choices=["blocking", "asynchronous"], default="blocking")


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all checks: asynchronous clients keep connections that belong to it."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    """A client, with nothing used of it."""
    return Client(request.config.getoption("--colour") == "blocking")


@pytest.fixture
def connection() -> dict[str, str]:
    """How to reach the service, as options of the client."""
    names = ("api_url", "sandbox_url", "domain", "api_key")
    return {name: os.environ[f"E2B_{name.upper()}"] for name in names if f"E2B_{name.upper()}" in os.environ}


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  what it waits for is behind HTTP
            await asyncio.sleep(0.05)


async def joined(pieces: Any) -> bytes:
    """A stream of either colour as a whole."""
    if hasattr(pieces, "__aiter__"):
        return b"".join([piece async for piece in pieces])
    return b"".join(pieces)


async def stream(client: Client, place: Any, pid: int, pieces: list[bytes | str]) -> None:
    """Input for a process in pieces: the blocking client takes them all, the asynchronous one gives a handle."""
    if client.blocking:
        await place.stream_input(pid, pieces)
        return
    handle = await place.stream_input(pid)
    for piece in pieces:
        await handle.send(piece)
    await handle.close()


@pytest.fixture
def unique() -> str:
    """A name that nobody else uses."""
    return uuid.uuid4().hex[:12]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Run a check and hold it to what it says that it shows."""
    wanted = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.function).parameters}
    runner = pyfuncitem._request.getfixturevalue("runner")
    runner.run(asyncio.wait_for(pyfuncitem.function(**wanted), 90))
    unused = set(pyfuncitem.function.shows) - wanted["client"].used
    assert not unused, f"the check says that it shows {sorted(unused)}, but did not use it"
    return True
