"""The server side of Envoy's incremental xDS protocol, without I/O.

One :class:`DeltaSession` is the state of one ADS stream: feed it what the client said, send what it returns. The rules
are those of Envoy's "xDS REST and gRPC protocol", section "Incremental xDS":

* The first request of a type without names subscribes to everything (``*``), later ones change the subscription.
* A name that is asked for again is sent again, changed or not.
* A name that does not exist is answered as removed at once, so that nobody waits for it.
* The first request of a type is always answered, if need be with nothing: clients wait for it.
* A client that comes back tells what it has (``initial_versions``) and gets the difference.
* What the client refused is not sent again until it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_WILDCARD = "*"
#: Stands for a version where the client was told that the resource does not exist.
_ABSENT = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One piece of configuration: a serialised message and a version that changes when the message does."""

    type_url: str
    name: str
    version: str
    body: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.version:
            raise ValueError("a resource needs a version that is not empty")


@dataclass(frozen=True, slots=True)
class Request:
    """A ``DeltaDiscoveryRequest``: a change of the subscription, the receipt for a response, or both."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    #: Why the response with this nonce was refused; ``None`` when it was accepted.
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A ``DeltaDiscoveryResponse``."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client uses what ``response`` brought."""

    response: Response


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client stays with what it had before ``response``."""

    response: Response
    reason: str


Event = Response | Accepted | Rejected


class Catalogue:
    """All resources there are, by type and name."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._types: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            self.put(resource)

    def put(self, resource: Resource) -> None:
        """Add or replace."""
        self._types.setdefault(resource.type_url, {})[resource.name] = resource

    def drop(self, type_url: str, name: str) -> None:
        """Remove; without such a resource this does nothing."""
        self.of(type_url).pop(name, None)

    def of(self, type_url: str) -> dict[str, Resource]:
        """The resources of one type by name."""
        return self._types.setdefault(type_url, {})


@dataclass(slots=True)
class _Subscription:
    """What a client wants of one type, and what it was told."""

    wildcard: bool
    names: set[str] = field(default_factory=set)
    told: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, Response] = field(default_factory=dict)

    def change(self, request: Request) -> None:
        self._leave(request.unsubscribe)
        for name in request.subscribe:
            if name == _WILDCARD:
                self.wildcard = True
            else:
                self.names.add(name)
                self.told.pop(name, None)

    def _leave(self, names: Iterable[str]) -> None:
        for name in names:
            if name == _WILDCARD:
                self.wildcard = False
            self.names.discard(name)
            if not self.wildcard:
                self.told.pop(name, None)

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def news(self, existing: Mapping[str, Resource]) -> tuple[Resource, ...]:
        wanted = existing.values() if self.wildcard else _present(existing, self.names)
        return tuple(resource for resource in wanted if self.told.get(resource.name) != resource.version)

    def losses(self, existing: Mapping[str, Resource]) -> tuple[str, ...]:
        gone = {name for name, version in self.told.items() if version != _ABSENT and name not in existing}
        never = {name for name in self.names if name not in existing and self.told.get(name) != _ABSENT}
        return tuple(sorted(gone | never))

    def tell(self, response: Response) -> None:
        self.told.update((resource.name, resource.version) for resource in response.resources)
        for name in response.removed:
            self.told.pop(name, None)
            if name in self.names:
                self.told[name] = _ABSENT
        self.unanswered[response.nonce] = response


def _present(existing: Mapping[str, Resource], names: Iterable[str]) -> Iterator[Resource]:
    return (existing[name] for name in names if name in existing)


class DeltaSession:
    """The state of one stream. Not thread-safe; several sessions may share a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._subscriptions: dict[str, _Subscription] = {}
        self._nonces = 0

    def receive(self, request: Request) -> list[Event]:
        """Take in a request; returns what came of it: receipts for the caller, responses for the client."""
        subscription = self._subscriptions.get(request.type_url)
        first = subscription is None
        if subscription is None:
            subscription = self._open(request)
        subscription.change(request)
        events = _settle(subscription, request)
        response = self._difference(request.type_url, subscription, always=first)
        return [*events, response] if response else events

    def changed(self, type_url: str) -> Response | None:
        """What the client has to be told after the catalogue changed, if anything."""
        subscription = self._subscriptions.get(type_url)
        return self._difference(type_url, subscription) if subscription else None

    def _open(self, request: Request) -> _Subscription:
        subscription = _Subscription(wildcard=not request.subscribe, told=dict(request.initial_versions))
        self._subscriptions[request.type_url] = subscription
        return subscription

    def _difference(self, type_url: str, subscription: _Subscription, *, always: bool = False) -> Response | None:
        existing = self._catalogue.of(type_url)
        news, losses = subscription.news(existing), subscription.losses(existing)
        if not (news or losses or always):
            return None
        self._nonces += 1
        response = Response(type_url, str(self._nonces), news, losses)
        subscription.tell(response)
        return response


def _settle(subscription: _Subscription, request: Request) -> list[Event]:
    response = subscription.unanswered.pop(request.nonce, None)
    if response is None:
        return []
    return [Accepted(response) if request.error is None else Rejected(response, request.error)]
