"""Snapshots, clones, rollback, volumes and policies, as CubeSandbox's own client asks for them."""

from __future__ import annotations

import os
import uuid

import pytest
from cubesandbox import ApiError, Sandbox, TemplateNotFoundError, Volume, VolumeMount


def check_snapshots() -> None:
    with Sandbox.create("base") as sandbox:
        sandbox.files.write("/home/user/a", "before")
        snapshot = sandbox.create_snapshot(name=f"s-{uuid.uuid4().hex[:8]}")
        sandbox.files.write("/home/user/a", "after")
        listed, token = Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id)
        assert ([item.snapshot_id for item in listed], token) == ([snapshot.snapshot_id], None)
        with Sandbox.create(snapshot.snapshot_id) as made:
            assert made.files.read("/home/user/a") == "before"
        sandbox.rollback(snapshot.snapshot_id)
        assert sandbox.files.read("/home/user/a") == "before"
        Sandbox.delete_snapshot(snapshot.snapshot_id)
        with pytest.raises(TemplateNotFoundError):
            Sandbox.delete_snapshot(snapshot.snapshot_id)


def check_clones() -> None:
    with Sandbox.create("base") as sandbox:
        sandbox.files.write("/home/user/a", "same")
        clones = sandbox.clone(3, concurrency=3)
        assert [clone.files.read("/home/user/a") for clone in clones] == ["same"] * 3
        for clone in clones:
            clone.kill()
        assert Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id) == ([], None)


def check_volumes() -> None:
    volume = Volume.create(f"v-{uuid.uuid4().hex[:8]}")
    assert volume.name in [item.name for item in Volume.list()]
    assert Volume.connect(volume.volume_id).token == volume.token
    with Sandbox.create("base", volume_mounts={"/data": volume}) as sandbox:
        sandbox.files.write("/data/f", "kept")
    with Sandbox.create("base", volume_mounts={"/data": VolumeMount(volume, read_only=True)}) as sandbox:
        assert sandbox.files.read("/data/f") == "kept"
        with pytest.raises(OSError, match=r"(?i)read.only|permission"):
            sandbox.files.write("/data/f", "changed")
    assert Volume.destroy(volume.volume_id)
    assert not Volume.destroy(volume.volume_id)


def check_policies() -> None:
    near, far, *_ = os.environ["CHECKS_HOSTS"].split(",")
    with Sandbox.create("base", network={"allow_out": [near], "deny_out": ["0.0.0.0/0"]}) as sandbox:
        assert (_reaches(sandbox, near), _reaches(sandbox, far)) == (True, False)
        sandbox.update_network({"deny_out": [near]})
        assert (_reaches(sandbox, near), _reaches(sandbox, far)) == (False, True)
        with pytest.raises(ApiError, match="denyOut"):
            sandbox.update_network({"deny_out": ["nonsense"]})
    with Sandbox.create("base", allow_internet_access=False) as sandbox:
        assert not _reaches(sandbox, near)


def _reaches(sandbox: Sandbox, host: str) -> bool:
    script = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/80 && head -1 <&3' 2>/dev/null || echo refused"
    return sandbox.commands.run(script).stdout.startswith(host)
