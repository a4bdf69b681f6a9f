"""The files of the audit log, and the spool that they are made of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cube.egress.audit.log import AuditLog, read
from cube.egress.audit.records import records
from cube.egress.audit.spool import Spool
from cube.egress.audit.writer import AuditWriter
from cube.model.errors import HostError


def raw(number: int = 1, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"event": "http_request", "at": str(10**18 + number), "connection": number}
    fields |= {"source": "10.0.0.2", "dialled": "203.0.113.10", "port": 443, "sni": "a.test", "cipher": "X"}
    fields |= {"tls": "TLSv1.3", "failure": None, "protocol": "HTTP/1.1", "scheme": "https", "method": "GET"}
    fields |= {"host": "a.test", "path": "/x?y=z", "status": 200, "details": "via_upstream", "flags": "-"}
    fields |= {"received": 0, "sent": 1, "milliseconds": 2, "upstream": "203.0.113.10:443", "upstream_tls": "TLSv1.3"}
    fields |= {"route": "metadata/r", "notes": None, "headers": {"user-agent": "me", "accept": None}}
    fields |= {"policy": {"policy_id": "box", "rule": "r", "decision": "allow"}}
    return {**fields, **changes}


def none(_: str) -> tuple[str, ...]:
    return ()


def test_e10_a_record_has_the_fields_of_the_specification() -> None:
    (record,) = records(raw(), none)

    assert record["ts"] == "2001-09-09T01:46:40.000Z"
    assert record["event"] == "http_request"
    assert record["sandbox"] == {"src_ip": "10.0.0.2", "policy_id": "box"}
    assert record["conn"] == {"original_dst_ip": "203.0.113.10", "original_dst_port": 443}
    assert record["tls"]["upstream_verified"] is True
    assert record["http"]["path"] == "/x?y=***REDACTED***"
    assert record["policy"] == {"matched_rule": "r", "decision": "allow", "duration_us": None}
    assert record["credentials"] is None
    assert record["security"] is None
    assert record["redacted_request_headers"] == {"user-agent": "me"}
    assert record["redacted_request_body"] is None
    assert record["redacted_response_body"] is None


@pytest.mark.parametrize(
    ("changes", "reason", "decision"),
    [
        ({"details": "direct_response", "status": 403, "policy": {"decision": "deny", "reason": "x"}}, "x", "deny"),
        ({"details": "lua_response", "status": 421, "notes": {"reason": "g4"}}, "g4", "deny"),
        ({"details": "route_not_found", "status": 403, "route": None, "policy": None}, "no_policy_for_sandbox", "deny"),
        ({"details": "upstream_reset{x}", "status": 502}, "upstream_unreachable_or_unverified", "allow"),
        ({"details": "http1.codec_error", "status": 400, "policy": None}, "unspecified", "deny"),
    ],
)  # fmt: skip
def test_e10_security_events_have_a_line_more(changes: dict[str, Any], reason: str, decision: str) -> None:
    request, event = records(raw(**changes), none)

    assert (request["event"], event["event"]) == ("http_request", "security_event")
    assert request["request_id"] == event["request_id"]
    assert event["security"]["reason"] == reason
    assert event["policy"]["decision"] == decision


def test_errors_of_servers_are_no_security_events() -> None:
    for status in (401, 403, 500, 502):
        assert len(records(raw(status=status), none)) == 1


def test_a_client_that_goes_away_is_no_security_event() -> None:
    (record,) = records(raw(details="downstream_remote_disconnect", status=0), none)

    assert record["security"] is None


def test_audit_none_leaves_security_events() -> None:
    assert records(raw(route="none/r"), none) == []
    denied = raw(
        route="none/r", details="direct_response", status=403, policy={"decision": "deny", "reason": "denied_by_rule"}
    )
    assert [record["event"] for record in records(denied, none)] == ["security_event"]


def test_failed_handshakes_are_told() -> None:
    (record,) = records(
        {"event": "tls_handshake", "connection": 7, "at": "1", "source": "x", "sni": "a", "failure": "no"}, none
    )

    assert record["request_id"] == "tls-7"
    assert record["security"]["reason"] == "handshake_failed: no"


class Ground:
    """A spool with its writer; Envoy is the test."""

    def __init__(self, directory: Path, **options: Any) -> None:
        (directory / "spool").mkdir(exist_ok=True)
        self.spool = Spool(directory / "spool", directory / "state", **options)
        self.path = directory / "log" / "access.jsonl"
        self.log = AuditLog(self.path)
        self.log.prepare()
        self.reopened = 0
        self.writer = AuditWriter(self.spool, self.log, none, self.reopen)

    async def reopen(self) -> None:
        self.reopened += 1

    def note(self, *numbers: int, end: str = "\n") -> None:
        with self.spool.path.open("a") as file:
            file.write("\n".join(json.dumps(raw(number)) for number in numbers) + end)

    @property
    def written(self) -> list[int]:
        return [int(record["request_id"].partition("-")[0]) for record in read(self.path)]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


async def test_lines_are_written_once(ground: Ground) -> None:
    ground.note(1, 2)
    await ground.writer.catch_up()
    ground.note(3)
    await ground.writer.catch_up()
    await ground.writer.catch_up()

    assert ground.written == [1, 2, 3]


async def test_half_a_line_waits_for_its_other_half(ground: Ground) -> None:
    ground.note(1, 2, end="")
    await ground.writer.catch_up()
    assert ground.written == [1]

    ground.note(end="\n")
    await ground.writer.catch_up()
    assert ground.written == [1, 2]


async def test_a_run_that_was_killed_after_writing_writes_nothing_twice(tmp_path: Path) -> None:
    killed = Ground(tmp_path)
    killed.note(*range(1, 50))
    part = killed.spool.next()
    assert part is not None
    killed.log.append(killed.writer._records(part)[:30])

    following = Ground(tmp_path)
    following.note(*range(50, 60))
    await following.writer.catch_up()

    assert following.written == list(range(1, 60))


async def test_nothing_is_lost_when_the_file_is_replaced(tmp_path: Path) -> None:
    ground = Ground(tmp_path, long_bytes=1000)
    ground.note(*range(1, 10))
    await ground.writer.catch_up()
    assert ground.reopened == 1

    with (tmp_path / "spool" / "spool.old").open("a") as file:
        file.write(json.dumps(raw(10)) + "\n")
    await ground.writer.catch_up()
    ground.note(11)
    await ground.writer.catch_up()

    assert ground.written == list(range(1, 12))
    assert not (tmp_path / "spool" / "spool.old").exists()


async def test_a_full_disk_is_tried_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    ground.note(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "No space left")))
        await ground.writer.catch_up()
    await ground.writer.catch_up()

    assert ground.written == [1]


async def test_lines_that_cannot_be_read_are_left_out(ground: Ground) -> None:
    with ground.spool.path.open("a") as file:
        file.write('not json\n{"event": 7}\n[]\n')
    ground.note(1)

    await ground.writer.catch_up()

    assert ground.written == [1]


def test_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "access.jsonl", most_bytes=100, kept=2)
    for number in range(5):
        log.append(records(raw(number), none))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.jsonl.1", "access.jsonl.2"]
    assert [record["request_id"].partition("-")[0] for record in read(tmp_path / "access.jsonl")] == ["3", "4"]


def test_e10_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HostError, match="cannot be written"):
        AuditLog(tmp_path / "file" / "access.jsonl").prepare()
