"""``filesystem.Filesystem``: the wire side of the guest's file operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from connectrpc.request import RequestContext

from cube.envd.call import Call, current_call
from cube.envd.errors import AlreadyExists, FileNotFound, UnknownUser, connect_errors
from cube.envd.filesystem.entries import entry_info
from cube.envd.filesystem.watching import follow, watchers_of
from cube.envd.proto.filesystem import filesystem_pb as pb
from cube.envd.proto.filesystem.filesystem_connect import Filesystem
from cube.model.errors import Conflict, InvalidInput, NotFound, Unauthenticated


class FilesystemService(Filesystem):
    """Answers for the sandbox of :data:`current_call`."""

    async def stat(self, request: pb.StatRequest, ctx: RequestContext[Any, Any]) -> pb.StatResponse:
        """What is at a path."""
        call = current_call.get()
        with _file_errors(call, request.path):
            entry = await call.sandbox.guest.stat(request.path, call.user)
        return pb.StatResponse(entry=entry_info(entry))

    async def make_dir(self, request: pb.MakeDirRequest, ctx: RequestContext[Any, Any]) -> pb.MakeDirResponse:
        """Make a directory and its parents."""
        call = current_call.get()
        with _file_errors(call, request.path, required=True):
            try:
                entry = await call.sandbox.guest.make_dir(request.path, call.user)
            except Conflict as error:
                raise AlreadyExists(f"directory already exists: {request.path}") from error
        return pb.MakeDirResponse(entry=entry_info(entry))

    async def move(self, request: pb.MoveRequest, ctx: RequestContext[Any, Any]) -> pb.MoveResponse:
        """Rename."""
        call = current_call.get()
        with _file_errors(call, request.source, required=True):
            _check(request.destination, required=True)
            entry = await call.sandbox.guest.move(request.source, request.destination, call.user)
        return pb.MoveResponse(entry=entry_info(entry))

    async def list_dir(self, request: pb.ListDirRequest, ctx: RequestContext[Any, Any]) -> pb.ListDirResponse:
        """What is below a directory."""
        call = current_call.get()
        with _file_errors(call, request.path):
            entries = await call.sandbox.guest.list_dir(request.path, call.user, request.depth or 1)
        return pb.ListDirResponse(entries=[entry_info(entry) for entry in entries])

    async def remove(self, request: pb.RemoveRequest, ctx: RequestContext[Any, Any]) -> pb.RemoveResponse:
        """Remove a file or a tree."""
        call = current_call.get()
        with _file_errors(call, request.path, required=True):
            await call.sandbox.guest.remove(request.path, call.user)
        return pb.RemoveResponse()

    async def watch_dir(
        self, request: pb.WatchDirRequest, ctx: RequestContext[Any, Any]
    ) -> AsyncIterator[pb.WatchDirResponse]:
        """Changes below a directory, as they happen."""
        call = current_call.get()
        with _file_errors(call, request.path):
            watch = await call.sandbox.guest.watch(request.path, call.user, recursive=request.recursive)
        async for response in follow(call, watch, request.path, include_entry=request.include_entry):
            yield response

    async def create_watcher(
        self, request: pb.CreateWatcherRequest, ctx: RequestContext[Any, Any]
    ) -> pb.CreateWatcherResponse:
        """Begin to collect changes for a client that polls."""
        call = current_call.get()
        watchers = watchers_of(call.sandbox)
        with _file_errors(call, request.path):
            watchers.check_room()
            watch = await call.sandbox.guest.watch(request.path, call.user, recursive=request.recursive)
            watcher_id = watchers.add(watch, request.path, call.user, include_entry=request.include_entry)
        return pb.CreateWatcherResponse(watcher_id=watcher_id)

    async def get_watcher_events(
        self, request: pb.GetWatcherEventsRequest, ctx: RequestContext[Any, Any]
    ) -> pb.GetWatcherEventsResponse:
        """Changes since the last call."""
        call = current_call.get()
        with connect_errors():
            events = await watchers_of(call.sandbox).events(request.watcher_id, call.sandbox.guest)
        return pb.GetWatcherEventsResponse(events=events)

    async def remove_watcher(
        self, request: pb.RemoveWatcherRequest, ctx: RequestContext[Any, Any]
    ) -> pb.RemoveWatcherResponse:
        """Stop to collect."""
        with connect_errors():
            watchers_of(current_call.get().sandbox).remove(request.watcher_id)
        return pb.RemoveWatcherResponse()


@contextmanager
def _file_errors(call: Call, path: str, *, required: bool = False) -> Iterator[None]:
    """Check the path, and give failures the texts that clients know."""
    with connect_errors():
        _check(path, required=required)
        try:
            yield
        except NotFound as error:
            raise FileNotFound(path) from error
        except Unauthenticated as error:
            raise UnknownUser(call.user) from error


def _check(path: str, *, required: bool = False) -> None:
    # An empty path is the home directory: fine to look at, but nobody who forgot the path wants it removed.
    if required and not path:
        raise InvalidInput("the path is missing", field="path")
    if "\0" in path:
        raise InvalidInput("a path cannot contain a NUL character", field="path")
