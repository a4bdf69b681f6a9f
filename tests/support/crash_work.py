"""Clients that do everything at once while something goes wrong, and what has to hold afterwards."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from e2b import Sandbox

from support.faults import until
from support.service import Service

#: Bytes; blocks of a layer that was removed are freed in the background.
_ROOM = 300 << 20
_MARK = "/home/user/mark"
#: Times that each client goes round at most: what it makes is looked at one by one afterwards.
_TURNS = 6
_GONE = (404,)


@dataclass
class Ledger:
    """What clients were told, by ids. Adding to a set needs no lock."""

    #: Sandboxes that somebody was told to be there, and those whose end was asked for.
    told: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    #: Sandboxes that may be gone, for the fault was theirs.
    excused: set[str] = field(default_factory=set)
    #: Sandboxes that have the mark, if they are there at all.
    marked: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    #: Statuses that no request should have got.
    wrong: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def alive(self) -> set[str]:
        """Those that must be there."""
        return self.told - self.ended - self.excused


class Ground:
    """The sandboxes of one round: one that nobody touches, and one per kind of work."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service = service
        self.ledger = ledger
        self._stop = threading.Event()
        self._faulty = threading.Event()
        self.bystander = ""
        self.snapshot = ""
        #: Sandboxes that are worked on, by the work.
        self.workpieces: dict[str, str] = {}

    @property
    def victims(self) -> set[str]:
        """Those whose end is no loss to the others."""
        return set(self.workpieces.values())

    def prepare(self) -> None:
        """Make the sandboxes, each with the mark, from one snapshot."""
        first = Sandbox.create("base", timeout=3600, **self._service.client)
        first.files.write(_MARK, "kept")
        first.commands.run("nohup sleep 100000 >/dev/null 2>&1 & echo $! > /tmp/pid")
        self.bystander = first.sandbox_id
        self.ledger.told.add(self.bystander)
        self.snapshot = self._told_snapshot(self._ask("POST", f"/sandboxes/{self.bystander}/snapshots", {}))
        for work in ("pause", "stop", "capture", "fork", "roll back", "delete"):
            self.workpieces[work] = self._created(self.snapshot)
        assert "" not in {self.bystander, self.snapshot, *self.workpieces.values()}

    # -- clients -------------------------------------------------------------------------------------------------

    @contextmanager
    def under_way(self, chance: random.Random) -> Iterator[None]:
        """Everything is under way in the block, and over after it."""
        work = [
            self._creating,
            self._creating_from_a_snapshot,
            self._deleting,
            lambda: self._pausing("pause", memory=True),
            lambda: self._pausing("stop", memory=False),
            self._capturing,
            self._forking,
            self._rolling_back,
        ]
        chance.shuffle(work)
        with ThreadPoolExecutor(len(work)) as pool:
            running = [pool.submit(self._repeat, one) for one in work]
            try:
                yield
            finally:
                self.stop()
        for done in running:
            done.result()

    def stop(self) -> None:
        """Let no client begin anything new."""
        self._stop.set()

    def _repeat(self, work: Callable[[], None]) -> None:
        for _ in range(_TURNS):
            if self._stop.is_set():
                return
            work()

    def _creating(self) -> None:
        self._created("base")

    def _creating_from_a_snapshot(self) -> None:
        self._created(self.snapshot)

    def _deleting(self) -> None:
        self._end(self._created("base"))

    def _pausing(self, work: str, *, memory: bool) -> None:
        path = f"/sandboxes/{self.workpieces[work]}"
        self._ask("POST", f"{path}/pause", {"memory": memory})
        self._ask("POST", f"{path}/connect", {"timeout": 3600})

    def _capturing(self) -> None:
        snapshot = self._told_snapshot(self._ask("POST", f"/sandboxes/{self.workpieces['capture']}/snapshots", {}))
        if snapshot and len(self.ledger.snapshots) % 2:
            self.ledger.removed.add(snapshot)
            self._ask("DELETE", f"/templates/{snapshot}")

    def _forking(self) -> None:
        answer = self._ask("POST", f"/sandboxes/{self.workpieces['fork']}/fork", {"count": 2, "timeout": 3600})
        for fork in answer.json() if answer is not None and answer.status_code == 201 else []:
            if fork.get("sandbox"):
                self._told(fork["sandbox"]["sandboxID"], marked=True)

    def _rolling_back(self) -> None:
        self._ask("POST", f"/sandboxes/{self.workpieces['roll back']}/rollback", {"snapshotID": self.snapshot})

    def delete_stopped(self) -> None:
        """End one of the excused sandboxes, whose process 1 does nothing at the moment."""
        victim = min(self.ledger.excused)
        assert self._end(victim) in (204, 404)

    @contextmanager
    def full_volume(self) -> Iterator[None]:
        """In the block the volume of all sandboxes has no room: one of them has taken it."""
        with Sandbox.create("base", timeout=3600, **self._service.client) as greedy:
            greedy.commands.run(
                "fallocate -l 100G /home/user/all || for s in 512 64 8 1; do"
                " n=0; while fallocate -l ${s}M /home/user/f$s-$n; do n=$((n+1)); done; done; true"
            )
            yield
        volume = self._service.directory / "state/volume"
        until(lambda: shutil.disk_usage(volume).free > _ROOM, "what was taken is not given back")

    # -- afterwards ----------------------------------------------------------------------------------------------

    def check(self, *, keeps_running: bool) -> None:
        """Everything that was told is there and whole, nothing else is handed out, and all of it can be ended."""
        assert not self.ledger.wrong, self.ledger.wrong
        self._check_sandboxes(keeps_running=keeps_running)
        self._check_snapshots()
        with ThreadPoolExecutor(4) as pool:
            codes = dict(zip(ids := self._listed(), pool.map(self._end, ids), strict=True))
        assert set(codes.values()) <= {204}, codes
        assert self._listed() == []
        assert {self._end(gone) for gone in self.ledger.told} <= {404}

    def _check_sandboxes(self, *, keeps_running: bool) -> None:
        listed = self._listed()
        if keeps_running:
            assert self.ledger.alive <= set(listed), "who was told of a sandbox finds it"
            running = self._inside(self.bystander, "kill -0 $(cat /tmp/pid) && echo yes")
            assert running == "yes", "a sandbox that nobody touched goes on"
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._check_sandbox, listed))

    def _check_sandbox(self, sandbox_id: str) -> None:
        """It answers, or is reported to be gone when it may be."""
        if sandbox_id in self.ledger.excused:
            until(
                lambda: self._whole(sandbox_id) or sandbox_id not in self._listed(), f"{sandbox_id} is dead and listed"
            )
        else:
            assert self._whole(sandbox_id), f"{sandbox_id} is not what it should be"

    def _whole(self, sandbox_id: str) -> bool:
        try:
            found = self._inside(sandbox_id, f"cat {_MARK} 2>/dev/null || echo none")
        except Exception as error:  # the client's errors have no common class
            if sandbox_id in self.ledger.excused:
                return False
            error.add_note(self._service.get(f"/sandboxes/{sandbox_id}").text)
            raise
        return found == "kept" or (found == "none" and sandbox_id not in self.ledger.marked)

    def _check_snapshots(self) -> None:
        listed = {snapshot["snapshotID"] for snapshot in self._service.get("/snapshots").json()}
        assert self.ledger.snapshots - self.ledger.removed <= listed, "who was told of a snapshot finds it"
        for snapshot in listed:
            made = self._created(snapshot)
            assert made, f"{snapshot} cannot be used"
            assert self._whole(made)
            removed = self._ask("DELETE", f"/templates/{snapshot}")
            assert removed is not None
            assert removed.status_code == 204, removed.text

    def check_templates(self) -> None:
        """What is imported is there whole or not at all, and the next command clears away what is neither."""
        listed = json.loads(self._service.run("template", "list", "--json").stdout)
        names = {name for template in listed for name in template["names"]}
        assert "base" in names
        assert not list(self._service.templates.glob(".new-*"))
        if "torn" in names:
            assert (made := self._created("torn"))
            assert self._end(made) == 204
            self._service.run("template", "delete", "torn")

    # -- requests ------------------------------------------------------------------------------------------------

    def _inside(self, sandbox_id: str, command: str) -> str:
        sandbox = Sandbox.connect(sandbox_id, timeout=3600, **self._service.client)
        return str(sandbox.commands.run(command, timeout=60).stdout).strip()

    def _listed(self) -> list[str]:
        answer = self._service.get("/v2/sandboxes")
        assert answer.status_code == 200, answer.text
        assert "x-next-token" not in answer.headers, "more than a page"
        return [sandbox["sandboxID"] for sandbox in answer.json()]

    def _created(self, origin: str) -> str:
        """Id of a new sandbox; empty when there is none."""
        answer = self._ask("POST", "/v2/sandboxes", {"templateID": origin, "timeout": 3600})
        if answer is None or answer.status_code != 201:
            return ""
        return self._told(answer.json()["sandboxID"], marked=origin == self.snapshot)

    def _told(self, sandbox_id: str, *, marked: bool) -> str:
        self.ledger.told.add(sandbox_id)
        if marked:
            self.ledger.marked.add(sandbox_id)
        return sandbox_id

    def _told_snapshot(self, answer: httpx.Response | None) -> str:
        if answer is None or answer.status_code != 201:
            return ""
        snapshot = str(answer.json()["snapshotID"])
        self.ledger.snapshots.add(snapshot)
        return snapshot

    def _end(self, sandbox_id: str) -> int:
        if not sandbox_id:
            return 404
        self.ledger.ended.add(sandbox_id)
        answer = self._ask("DELETE", f"/sandboxes/{sandbox_id}")
        return 0 if answer is None else answer.status_code

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response | None:
        """The answer, or ``None`` when the service went away."""
        try:
            answer = httpx.request(method, self._service.url + path, json=body, timeout=120, trust_env=False)
        except httpx.TransportError:
            return None
        if answer.status_code == 500:
            self.ledger.wrong.append((f"{method} {path}", answer.status_code, answer.text[:300]))
        return answer
