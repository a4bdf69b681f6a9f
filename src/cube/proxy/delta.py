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

from collections.abc import Callable, Collection, Iterable, Mapping
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
#: Makes the resource of a name, or says that there is none.
Maker = Callable[[str], Resource | None]


class Catalogue:
    """All resources there are, by type and name."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._types: dict[str, dict[str, Resource]] = {}
        self._makers: dict[str, Maker] = {}
        for resource in resources:
            self.put(resource)

    def make_on_demand(self, type_url: str, maker: Maker) -> None:
        """Ask ``maker`` for resources of a type that are asked for by name and not there."""
        self._makers[type_url] = maker

    def demand(self, type_url: str, names: Iterable[str]) -> None:
        """Have what can be made of these names, where it is not there yet."""
        maker, existing = self._makers.get(type_url), self.of(type_url)
        for name in names if maker else ():
            if name not in existing and maker is not None and (made := maker(name)) is not None:
                self.put(made)

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
    #: What the client has said that it has, by name.
    held: dict[str, str] = field(default_factory=dict)
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

    def everything(self, existing: Mapping[str, Resource]) -> Collection[str]:
        """All names about which there could be something to say."""
        return dict.fromkeys((*(existing if self.wildcard else ()), *self.names, *self.told))

    def news(self, existing: Mapping[str, Resource], names: Iterable[str]) -> tuple[Resource, ...]:
        wanted = (existing[name] for name in names if name in existing and self.wants(name))
        return tuple(resource for resource in wanted if self.told.get(resource.name) != resource.version)

    def losses(self, existing: Mapping[str, Resource], names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(name for name in names if name not in existing and self._misses(name)))

    def _misses(self, name: str) -> bool:
        """Whether the client does not know yet that there is no such thing, and cares."""
        told = self.told.get(name)
        return told != _ABSENT and (told is not None or name in self.names)

    def tell(self, response: Response) -> None:
        self.told.update((resource.name, resource.version) for resource in response.resources)
        for name in response.removed:
            self.told.pop(name, None)
            if name in self.names:
                self.told[name] = _ABSENT
        self.unanswered[response.nonce] = response

    def hold(self, response: Response) -> None:
        self.held.update((resource.name, resource.version) for resource in response.resources)
        for name in response.removed:
            self.held.pop(name, None)


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
        self._catalogue.demand(request.type_url, [name for name in request.subscribe if name != _WILDCARD])
        events = _settle(subscription, request)
        # What was not asked for now has been told before.
        names = None if first or _WILDCARD in request.subscribe else request.subscribe
        response = self._difference(request.type_url, subscription, names, always=first)
        return [*events, response] if response else events

    def changed(self, type_url: str, names: Collection[str] | None = None) -> Response | None:
        """What the client has to be told after the catalogue changed, if anything; ``names`` are those that did."""
        subscription = self._subscriptions.get(type_url)
        return self._difference(type_url, subscription, names) if subscription else None

    def holds(self, type_url: str, name: str) -> str | None:
        """The version of a resource that the client has confirmed to use."""
        subscription = self._subscriptions.get(type_url)
        return subscription.held.get(name) if subscription else None

    def _open(self, request: Request) -> _Subscription:
        versions = request.initial_versions
        subscription = _Subscription(not request.subscribe, told=dict(versions), held=dict(versions))
        self._subscriptions[request.type_url] = subscription
        return subscription

    def _difference(
        self, type_url: str, subscription: _Subscription, names: Collection[str] | None, *, always: bool = False
    ) -> Response | None:
        existing = self._catalogue.of(type_url)
        if names is None:
            names = subscription.everything(existing)
        news, losses = subscription.news(existing, names), subscription.losses(existing, names)
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
    if request.error is not None:
        return [Rejected(response, request.error)]
    subscription.hold(response)
    return [Accepted(response)]
