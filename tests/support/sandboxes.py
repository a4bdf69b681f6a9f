"""Sandboxes as values, for tests that need some."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cube.model.ids import new_sandbox_id
from cube.model.resources import Resources
from cube.model.sandbox import OnTimeout, Sandbox, SandboxState

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def make_sandbox(**changes: Any) -> Sandbox:
    """A running sandbox from ``base``, with what is named changed."""
    sandbox = Sandbox(
        sandbox_id=new_sandbox_id(),
        template_id="tpl-base",
        template_name="base",
        state=SandboxState.RUNNING,
        started_at=NOON,
        end_at=NOON + timedelta(minutes=5),
        on_timeout=OnTimeout.KILL,
        auto_resume=False,
        resources=Resources(),
        metadata={},
        env_vars={},
        envd_access_token="token",
        runtime="fake",
    )
    return replace(sandbox, **changes)
