from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.master.secrets.service import SecretService
from cube.master.store.store import Store
from cube.model.errors import Conflict, HostError, InvalidInput, SecretNotFound
from support.fake_clock import FakeClock

VALUE = "sk-that-nobody-may-see"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "cube.db")
    yield store
    await store.close()


@pytest.fixture
async def secrets(store: Store, clock: FakeClock) -> SecretService:
    service = SecretService(store.secrets, clock)
    await service.start()
    return service


async def test_a_secret_is_kept_and_resolved(secrets: SecretService) -> None:
    made = await secrets.create("Key", VALUE, {"env": "test"})
    assert (made.name, made.version, made.metadata) == ("key", 1, {"env": "test"})
    assert secrets.get(made.secret_id) == secrets.get("key") == secrets.get("KEY") == made
    assert secrets.resolve("Bearer ${e2b.secrets.Key}") == f"Bearer {VALUE}"


async def test_an_update_is_the_next_version(secrets: SecretService, clock: FakeClock) -> None:
    made = await secrets.create("key", "old", {"a": "b"})
    clock.advance(60)
    updated = await secrets.update("key", "new", None)
    assert (updated.version, updated.metadata, updated.secret_id) == (2, {"a": "b"}, made.secret_id)
    assert updated.updated_at > updated.created_at == made.created_at
    assert secrets.resolve("${e2b.secrets.key}") == "new"
    assert (await secrets.update(made.secret_id, "newer", {})).metadata == {}


async def test_updates_at_once_are_versions_of_their_own(secrets: SecretService) -> None:
    await secrets.create("key", "0", {})
    updates = await asyncio.gather(*(secrets.update("key", str(number), None) for number in range(10)))
    assert sorted(secret.version for secret in updates) == list(range(2, 12))


async def test_a_name_is_taken_once(secrets: SecretService) -> None:
    outcomes = await asyncio.gather(
        *(secrets.create(name, "x", {}) for name in ("key", "KEY", "Key")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(Conflict) == 2
    with pytest.raises(InvalidInput):
        await secrets.create("sec_1", "x", {})
    await secrets.delete("key")
    assert (await secrets.create("key", "x", {})).version == 1


async def test_what_is_gone_is_gone(secrets: SecretService) -> None:
    await secrets.create("key", VALUE, {})
    await secrets.delete("key")
    for attempt in (secrets.delete("key"), secrets.update("key", "x", None)):
        with pytest.raises(SecretNotFound):
            await attempt
    for text in ("${e2b.secrets.key}", "${e2b.secrets.other}"):
        with pytest.raises(SecretNotFound):
            secrets.resolve(text)


async def test_they_outlive_a_restart(secrets: SecretService, store: Store, clock: FakeClock) -> None:
    kept = await secrets.create("kept", VALUE, {"a": "b"})
    await secrets.update("kept", VALUE + "2", None)
    await secrets.create("gone", VALUE, {})
    await secrets.delete("gone")
    again = SecretService(store.secrets, clock)
    await again.start()
    assert again.page(10, None)[0] == [secrets.get(kept.secret_id)]
    assert again.resolve("${e2b.secrets.kept}") == VALUE + "2"


async def test_pages(secrets: SecretService, clock: FakeClock) -> None:
    for number in range(7):
        await secrets.create(f"key{number}", "x", {})
        clock.advance(number % 2)
    found, token = secrets.page(3, None)
    await secrets.delete(found[-1].secret_id)
    names = [secret.name for secret in found]
    while token:
        found, token = secrets.page(3, token)
        names += [secret.name for secret in found]
    assert sorted(names) == [f"key{number}" for number in range(7)]
    assert len(set(names)) == 7


async def test_values_are_nowhere_in_clear(secrets: SecretService, tmp_path: Path) -> None:
    made = await secrets.create("key", VALUE, {})
    assert VALUE not in repr(made) + repr(vars(secrets))
    assert files_with(VALUE, tmp_path) == []


def files_with(text: str, directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if text.encode() in path.read_bytes()]


async def test_a_sealed_value_is_of_use_for_its_version_alone(secrets: SecretService, store: Store) -> None:
    first = await secrets.create("first", VALUE, {})
    second = await secrets.create("second", "x", {})
    sealed = store.secrets.seal(first, VALUE)
    for other in (second, await secrets.update("first", "y", None)):
        with pytest.raises(HostError):
            store.secrets.open(other, sealed)


async def test_changes_are_told(secrets: SecretService) -> None:
    changed: list[str] = []
    secrets.on_change(changed.append)
    await secrets.create("Key", "x", {})
    await secrets.update("key", "y", None)
    await secrets.delete("key")
    assert changed == ["key"] * 3
