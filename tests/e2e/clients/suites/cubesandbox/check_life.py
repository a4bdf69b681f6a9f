"""The life of a sandbox, as CubeSandbox's own client sees it; it is configured by its ``CUBE_*`` variables."""

from __future__ import annotations

import pytest
from cubesandbox import (
    NEVER_TIMEOUT,
    ApiError,
    CubeSandboxError,
    Sandbox,
    SandboxNotFoundError,
    SandboxState,
    TemplateNotFoundError,
)


def check_create_connect_and_kill() -> None:
    sandbox = Sandbox.create("base", metadata={"a": "b"}, envs={"WHO": "me"})
    assert sandbox.commands.run("echo $WHO").stdout == "me\n"
    again = Sandbox.connect(sandbox.sandbox_id)
    assert again.get_info().metadata == {"a": "b"}
    sandbox.kill()
    with pytest.raises(SandboxNotFoundError):
        sandbox.kill()
    with pytest.raises(SandboxNotFoundError):
        Sandbox.connect(sandbox.sandbox_id)


def check_the_template_of_the_environment() -> None:
    with Sandbox.create() as sandbox:
        info = sandbox.get_info()
    assert (info.name, info.state) == ("code-interpreter-v1", SandboxState.RUNNING)
    assert info.disk_size_mb is not None
    assert info["sandboxID"] == sandbox.sandbox_id


def check_lists_and_health() -> None:
    with Sandbox.create("base") as sandbox:
        for listed in (Sandbox.list(), Sandbox.list_v2()):
            assert sandbox.sandbox_id in [item["sandboxID"] for item in listed]
        assert Sandbox.health()["status"] == "ok"


def check_pause_and_resume() -> None:
    with Sandbox.create("base") as sandbox:
        sandbox.pause()
        assert sandbox.get_info().state == "paused"
        with pytest.raises(ApiError, match="not running"):
            sandbox.pause()
        sandbox.resume(timeout=60)
        with pytest.raises(ApiError):
            sandbox.resume()
        sandbox.pause()
        assert Sandbox.connect(sandbox.sandbox_id).commands.run("echo on").stdout == "on\n"


def check_automatic_pause_and_resume() -> None:
    with Sandbox.create("base", lifecycle={"on_timeout": "pause", "auto_resume": True}) as sandbox:
        sandbox.set_timeout(0)
        assert sandbox.commands.run("echo woken").stdout == "woken\n"


def check_timeouts() -> None:
    with Sandbox.create("base", timeout=100) as sandbox:
        sandbox.set_timeout(1000)
        info = sandbox.get_info()
        assert info.end_at is not None
        assert info.started_at is not None
        assert (info.end_at - info.started_at).total_seconds() > 900
        with pytest.raises(ApiError):
            sandbox.set_timeout(-2)


def check_no_timeout() -> None:
    with Sandbox.create("base", timeout=NEVER_TIMEOUT) as sandbox:
        never = sandbox.get_info().end_at
        assert never is not None
        sandbox.set_timeout(60)
        assert sandbox.get_info().end_at < never
        Sandbox.connect(sandbox.sandbox_id, timeout=NEVER_TIMEOUT)
        assert sandbox.get_info().end_at == never
        sandbox.pause()
        sandbox.resume(timeout=NEVER_TIMEOUT)
        assert sandbox.get_info().end_at == never
        assert sandbox.commands.run("echo on").stdout == "on\n"
        sandbox.set_timeout(60)
        sandbox.set_timeout(NEVER_TIMEOUT)
        assert sandbox.get_info().end_at == never


def check_unknown_templates() -> None:
    with pytest.raises(TemplateNotFoundError):
        Sandbox.create("no-such-template")


def check_a_gateway_that_the_template_lacks() -> None:
    with pytest.raises(CubeSandboxError, match="mcp-gateway"):
        Sandbox.create("base", mcp={"duckduckgo": {}})


def check_placement() -> None:
    with Sandbox.create("base") as sandbox:
        node = sandbox.get_info()["clientID"]
    with Sandbox.create("base", distribution_scope=["elsewhere", node]) as sandbox:
        assert sandbox.get_info()["clientID"] == node
    with pytest.raises(ApiError, match="distributionScope"):
        Sandbox.create("base", distribution_scope=["elsewhere"])


def check_ports_and_their_token() -> None:
    with Sandbox.create("base", network={"allow_public_traffic": False}) as sandbox:
        assert sandbox.traffic_access_token
        assert sandbox.get_host(8000) == f"8000-{sandbox.sandbox_id}.{sandbox.domain}"
        assert sandbox.get_mcp_url() == f"http://50005-{sandbox.sandbox_id}.{sandbox.domain}/mcp"
        assert sandbox.get_mcp_token() is None
        assert sandbox.commands.run("echo through").stdout == "through\n"
