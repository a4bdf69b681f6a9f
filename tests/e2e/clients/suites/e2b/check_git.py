"""Git, which the client drives by commands in the sandbox; remotes are directories of the sandbox."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Client, shows

ME = {"author_name": "Me", "author_email": "me@example.com"}


async def _repository(sandbox: Any) -> None:
    await sandbox.git.init("repo", initial_branch="main")
    await sandbox.files.write("repo/a", "1")
    await sandbox.git.add("repo")
    await sandbox.git.commit("repo", "first", **ME)


@shows("Sandbox.git", "Git.init", "Git.add", "Git.commit", "Git.status")
async def check_a_repository(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await _repository(sandbox)
        status = await sandbox.git.status("repo")
        assert (status.current_branch, status.is_clean) == ("main", True)
        await sandbox.files.write("repo/b", "2")
        status = await sandbox.git.status("repo")
        assert [file.name for file in status.file_status] == ["b"]


@shows("Git.branches", "Git.create_branch", "Git.checkout_branch", "Git.delete_branch")
async def check_branches(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await _repository(sandbox)
        await sandbox.git.create_branch("repo", "other")
        branches = await sandbox.git.branches("repo")
        assert (sorted(branches.branches), branches.current_branch) == (["main", "other"], "other")
        await sandbox.git.checkout_branch("repo", "main")
        await sandbox.git.delete_branch("repo", "other")
        assert (await sandbox.git.branches("repo")).branches == ["main"]


@shows("Git.clone", "Git.push", "Git.pull", "Git.remote_add", "Git.remote_get")
async def check_remotes(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await _repository(sandbox)
        await sandbox.git.init("bare.git", bare=True, initial_branch="main")
        await sandbox.git.remote_add("repo", "origin", "/home/user/bare.git")
        assert await sandbox.git.remote_get("repo", "origin") == "/home/user/bare.git"
        await sandbox.git.push("repo", remote="origin", branch="main")
        await sandbox.git.clone("/home/user/bare.git", path="copy")
        assert await sandbox.files.read("copy/a") == "1"
        await sandbox.files.write("repo/a", "2")
        await sandbox.git.add("repo")
        await sandbox.git.commit("repo", "second", **ME)
        await sandbox.git.push("repo", remote="origin", branch="main")
        await sandbox.git.pull("copy")
        assert await sandbox.files.read("copy/a") == "2"


@shows("Git.configure_user", "Git.set_config", "Git.get_config")
async def check_configuration(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.git.configure_user("Me", "me@example.com")
        assert await sandbox.git.get_config("user.name") == "Me"
        await sandbox.git.set_config("core.editor", "true")
        assert await sandbox.git.get_config("core.editor") == "true"
        assert await sandbox.git.get_config("core.nothing") is None


@shows("Git.reset", "Git.restore")
async def check_taking_back(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await _repository(sandbox)
        await sandbox.files.write("repo/a", "2")
        await sandbox.git.restore("repo", paths=["a"])
        assert await sandbox.files.read("repo/a") == "1"
        await sandbox.files.write("repo/a", "3")
        await sandbox.git.add("repo")
        await sandbox.git.reset("repo", mode="hard", target="HEAD")
        assert await sandbox.files.read("repo/a") == "1"


@shows("Git.dangerously_authenticate")
async def check_stored_credentials(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.git.dangerously_authenticate("me", "secret", host="git.example.com")
        asked = "printf 'protocol=https\\nhost=git.example.com\\n\\n' | git credential fill"
        assert "password=secret" in (await sandbox.commands.run(asked)).stdout


@shows("Git.clone")
async def check_a_remote_that_is_not_there(client: Client) -> None:
    async with client.sandbox() as sandbox:
        with pytest.raises(client.types.SandboxException):
            await sandbox.git.clone("/home/user/nowhere", path="copy")
