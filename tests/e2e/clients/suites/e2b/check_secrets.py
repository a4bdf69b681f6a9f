"""Secrets: values go in and never come out."""

from __future__ import annotations

import pytest
from harness import Client, shows


@shows("Secret.create Secret.get_info Secret.update Secret.exists Secret.destroy", since="2.45")
async def check_life(client: Client, unique: str) -> None:
    made = await client.Secret.create(unique, "hidden-value", metadata={"of": "me"})
    assert (made.name, made.metadata) == (unique, {"of": "me"})
    assert "hidden-value" not in repr(made)
    updated = await client.Secret.update(unique, "another-value")
    assert updated.secret_id == made.secret_id
    assert (await client.Secret.get_info(made.secret_id)).name == unique
    assert await client.Secret.exists(unique)
    assert await client.Secret.destroy(unique)
    assert not await client.Secret.destroy(unique)
    assert not await client.Secret.exists(unique)
    with pytest.raises(client.types.SecretNotFoundException):
        await client.Secret.get_info(unique)


@shows("Secret.list SecretPaginator.has_next SecretPaginator.next_items SecretPaginator.next_token", since="2.45")
async def check_pages(client: Client, unique: str) -> None:
    names = [f"{unique}-{number}" for number in range(3)]
    for name in names:
        await client.Secret.create(name, "x")
    found: list[str] = []
    paginator = await client.Secret.list(limit=2)
    while paginator.has_next:
        assert paginator.next_token is None or isinstance(paginator.next_token, str)
        found += [item.name for item in await paginator.next_items()]
    assert set(names) <= set(found)
    for name in names:
        await client.Secret.destroy(name)


@shows("Secret.fill Secret.iam_token", since="2.45")
async def check_what_is_made_locally(client: Client) -> None:
    assert await client.Secret.fill("key") == "${e2b.secrets.key}"
    token = await client.Secret.iam_token(audience="sts.example.com", token_type="JWT-SVID")
    assert token["audience"] == "sts.example.com"
