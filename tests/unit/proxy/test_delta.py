"""The incremental xDS protocol: conversations between a client and :class:`DeltaSession`."""

from __future__ import annotations

import pytest

from cube.proxy.delta import Accepted, Catalogue, DeltaSession, Event, Rejected, Request, Resource, Response

T = "type.googleapis.com/test.Thing"
OTHER = "type.googleapis.com/test.Other"


def thing(name: str, version: str = "1", type_url: str = T) -> Resource:
    return Resource(type_url, name, version, f"{name}@{version}".encode())


def only_response(events: list[Event]) -> Response:
    (event,) = events
    assert isinstance(event, Response)
    return event


def names(response: Response | None) -> list[str]:
    assert response is not None
    return [resource.name for resource in response.resources]


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue([thing("a"), thing("b"), thing("x", type_url=OTHER)])


@pytest.fixture
def session(catalogue: Catalogue) -> DeltaSession:
    return DeltaSession(catalogue)


def ack(response: Response) -> Request:
    return Request(response.type_url, nonce=response.nonce)


def test_first_request_without_names_gets_everything_of_that_type(session: DeltaSession) -> None:
    response = only_response(session.receive(Request(T)))
    assert names(response) == ["a", "b"]
    assert response.type_url == T
    assert response.removed == ()


def test_first_request_is_answered_even_with_nothing(session: DeltaSession) -> None:
    response = only_response(session.receive(Request("type.googleapis.com/test.None")))
    assert (response.resources, response.removed) == ((), ())


def test_named_subscription_gets_only_those(session: DeltaSession) -> None:
    assert names(only_response(session.receive(Request(T, subscribe=("b",))))) == ["b"]


def test_missing_name_is_answered_as_removed_once(session: DeltaSession) -> None:
    response = only_response(session.receive(Request(T, subscribe=("ghost",))))
    assert response.removed == ("ghost",)
    assert session.changed(T) is None


def test_missing_name_is_sent_when_it_appears_and_removed_when_it_goes(
    session: DeltaSession, catalogue: Catalogue
) -> None:
    session.receive(Request(T, subscribe=("ghost",)))
    catalogue.put(thing("ghost"))
    assert names(session.changed(T)) == ["ghost"]
    catalogue.drop(T, "ghost")
    response = session.changed(T)
    assert response is not None
    assert response.removed == ("ghost",)


def test_asking_again_for_a_name_sends_it_again(session: DeltaSession) -> None:
    session.receive(Request(T, subscribe=("a",)))
    assert names(only_response(session.receive(Request(T, subscribe=("a",))))) == ["a"]
    session.receive(Request(T, subscribe=("ghost",)))
    assert only_response(session.receive(Request(T, subscribe=("ghost",)))).removed == ("ghost",)


def test_later_request_without_names_is_no_wildcard(session: DeltaSession) -> None:
    session.receive(Request(T, subscribe=("a",)))
    assert session.receive(Request(T)) == []


def test_explicit_wildcard_beside_names(session: DeltaSession) -> None:
    session.receive(Request(T, subscribe=("a",)))
    assert names(only_response(session.receive(Request(T, subscribe=("*",))))) == ["b"]


def test_leaving_the_wildcard_keeps_the_names(session: DeltaSession, catalogue: Catalogue) -> None:
    session.receive(Request(T, subscribe=("*", "a")))
    session.receive(Request(T, unsubscribe=("*",)))
    catalogue.put(thing("a", "2"))
    catalogue.put(thing("b", "2"))
    assert names(session.changed(T)) == ["a"]


def test_unsubscribed_name_is_not_mentioned_again(session: DeltaSession, catalogue: Catalogue) -> None:
    session.receive(Request(T, subscribe=("a", "b")))
    assert session.receive(Request(T, unsubscribe=("a",))) == []
    catalogue.put(thing("a", "2"))
    catalogue.drop(T, "a")
    assert session.changed(T) is None


def test_only_changes_are_sent(session: DeltaSession, catalogue: Catalogue) -> None:
    session.receive(Request(T))
    assert session.changed(T) is None
    catalogue.put(thing("a", "2"))
    catalogue.put(thing("c"))
    catalogue.drop(T, "b")
    response = session.changed(T)
    assert names(response) == ["a", "c"]
    assert response is not None
    assert response.removed == ("b",)
    assert session.changed(T) is None


def test_types_do_not_mix(session: DeltaSession, catalogue: Catalogue) -> None:
    session.receive(Request(T))
    catalogue.put(thing("x", "2", OTHER))
    assert session.changed(T) is None
    assert session.changed(OTHER) is None  # nobody asked for it
    assert names(only_response(session.receive(Request(OTHER)))) == ["x"]


def test_returning_client_gets_the_difference(session: DeltaSession) -> None:
    had = {"a": "1", "b": "0", "stale": "7"}
    response = only_response(session.receive(Request(T, initial_versions=had)))
    assert names(response) == ["b"]
    assert response.removed == ("stale",)


def test_returning_client_that_has_everything_gets_an_empty_answer(session: DeltaSession) -> None:
    response = only_response(session.receive(Request(T, initial_versions={"a": "1", "b": "1"})))
    assert (response.resources, response.removed) == ((), ())


def test_acceptance_is_reported_once(session: DeltaSession) -> None:
    response = only_response(session.receive(Request(T)))
    assert session.receive(ack(response)) == [Accepted(response)]
    assert session.receive(ack(response)) == []


def test_unknown_nonce_is_ignored(session: DeltaSession) -> None:
    session.receive(Request(T))
    assert session.receive(Request(T, nonce="no such")) == []


def test_receipts_may_come_out_of_step(session: DeltaSession, catalogue: Catalogue) -> None:
    first = only_response(session.receive(Request(T)))
    catalogue.put(thing("a", "2"))
    second = session.changed(T)
    assert second is not None
    assert first.nonce != second.nonce
    assert session.receive(ack(second)) == [Accepted(second)]
    assert session.receive(ack(first)) == [Accepted(first)]


def test_refused_version_is_not_sent_again_until_it_changes(session: DeltaSession, catalogue: Catalogue) -> None:
    response = only_response(session.receive(Request(T)))
    refusal = Request(T, nonce=response.nonce, error="no good")
    assert session.receive(refusal) == [Rejected(response, "no good")]
    assert session.changed(T) is None
    catalogue.put(thing("a", "2"))
    assert names(session.changed(T)) == ["a"]


def test_one_request_may_be_receipt_and_subscription(session: DeltaSession) -> None:
    response = only_response(session.receive(Request(T, subscribe=("a",))))
    receipt, answer = session.receive(Request(T, subscribe=("b",), nonce=response.nonce))
    assert receipt == Accepted(response)
    assert isinstance(answer, Response)
    assert names(answer) == ["b"]


def test_sessions_are_independent(catalogue: Catalogue) -> None:
    one, two = DeltaSession(catalogue), DeltaSession(catalogue)
    one.receive(Request(T))
    assert two.changed(T) is None
    assert names(only_response(two.receive(Request(T)))) == ["a", "b"]


def test_resource_needs_a_version() -> None:
    with pytest.raises(ValueError, match="version"):
        Resource(T, "a", "", b"")


def test_what_is_asked_for_is_made_on_demand_and_kept(session: DeltaSession, catalogue: Catalogue) -> None:
    asked: list[str] = []

    def make(name: str) -> Resource | None:
        asked.append(name)
        return thing(name) if name != "never" else None

    catalogue.make_on_demand(T, make)
    response = only_response(session.receive(Request(T, subscribe=("new", "never", "a"))))

    assert sorted(names(response)) == ["a", "new"]
    assert response.removed == ("never",)
    assert asked == ["new", "never"]

    session.receive(ack(response))
    assert names(only_response(session.receive(Request(T, subscribe=("new",))))) == ["new"]
    assert asked == ["new", "never"]


def test_nothing_is_made_for_everything(session: DeltaSession, catalogue: Catalogue) -> None:
    catalogue.make_on_demand(T, thing)
    assert names(only_response(session.receive(Request(T, subscribe=("*",))))) == ["a", "b"]


def test_what_a_client_has_is_known_once_it_says_so(session: DeltaSession, catalogue: Catalogue) -> None:
    response = only_response(session.receive(Request(T)))
    assert session.holds(T, "a") is None
    session.receive(ack(response))
    assert session.holds(T, "a") == "1"

    catalogue.put(thing("a", "2"))
    update = session.changed(T, ["a"])
    assert update is not None
    session.receive(Request(T, nonce=update.nonce, error="no"))
    assert session.holds(T, "a") == "1"

    catalogue.drop(T, "a")
    removal = session.changed(T, ["a"])
    assert removal is not None
    session.receive(ack(removal))
    assert session.holds(T, "a") is None


def test_what_a_client_brings_along_it_has(session: DeltaSession) -> None:
    session.receive(Request(T, initial_versions={"a": "1"}))
    assert session.holds(T, "a") == "1"


def test_only_the_names_that_changed_are_told(session: DeltaSession, catalogue: Catalogue) -> None:
    session.receive(Request(T))
    catalogue.put(thing("a", "2"))
    catalogue.put(thing("b", "2"))
    assert names(session.changed(T, ["b"])) == ["b"]
    assert names(session.changed(T)) == ["a"]
