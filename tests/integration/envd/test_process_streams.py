"""Process streams at the level of the protocol: what is delivered, to whom, and for how long."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from cube.envd.process import managed, processes
from cube.envd.process.processes import table_of
from cube.envd.sandboxes import EnvdSandbox
from support.connect_rpc import RpcClient, output, pid_of
from support.envd_server import EnvdServer
from support.local_guest import LocalGuest


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that another process does."""
    limit = time.monotonic() + 10
    while not (value := condition()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.005)
    return value


class TestEvents:
    def test_start_data_end(self, rpc: RpcClient) -> None:
        with rpc.start("echo out; echo err >&2; exit 3") as stream:
            events = [message["event"] for message in stream]
        assert list(events[0]) == ["start"]
        assert output([{"event": event} for event in events]) == b"out\n"
        assert output([{"event": event} for event in events], "stderr") == b"err\n"
        assert events[-1] == {
            "end": {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}
        }
        assert stream.end == {}

    def test_a_signal(self, rpc: RpcClient) -> None:
        with rpc.start("kill -TERM $$") as stream:
            events = list(stream)
        assert events[-1]["event"]["end"] == {
            "exitCode": -1,
            "status": "signal: terminated",
            "error": "signal: terminated",
        }

    def test_chunks_are_bounded_and_nothing_is_lost(self, rpc: RpcClient) -> None:
        with rpc.start("head -c 3000000 /dev/zero") as stream:
            events = list(stream)
        sizes = [len(output([event])) for event in events]
        assert sum(sizes) == 3_000_000
        assert max(sizes) <= 32 * 1024

    def test_terminal_chunks_are_bounded(self, rpc: RpcClient) -> None:
        request = {
            "process": {"cmd": "/bin/sh", "args": ["-c", "head -c 300000 /dev/zero"]},
            "pty": {"size": {"cols": 80, "rows": 24}},
        }
        with rpc.stream("process.Process/Start", request) as stream:
            sizes = [len(output([event], "pty")) for event in stream]
        assert sum(sizes) == 300_000
        assert max(sizes) <= 16 * 1024

    def test_a_sign_of_life_in_silence(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 30", Keepalive_Ping_Interval="1") as stream:
            events = iter(stream)
            pid = pid_of(next(events))
            assert next(events) == {"event": {"keepalive": {}}}
            os.kill(pid, signal.SIGKILL)
            assert "end" in list(events)[-1]["event"]

    @pytest.mark.parametrize("interval", ["0", "-1", "nonsense", "9" * 40])
    def test_a_senseless_interval_is_harmless(self, rpc: RpcClient, interval: str) -> None:
        with rpc.start("sleep 0.1", Keepalive_Ping_Interval=interval) as stream:
            assert len(list(stream)) == 2

    def test_binary_messages(self, rpc: RpcClient) -> None:
        from cube.envd.proto.process.process_pb import ProcessConfig, StartRequest, StartResponse

        request = StartRequest(process=ProcessConfig(cmd="/bin/echo", args=["hi"]), stdin=False)
        data = request.to_binary()
        response = rpc.http.post(
            "/process.Process/Start",
            content=b"\0" + len(data).to_bytes(4, "big") + data,
            headers={"Content-Type": "application/connect+proto"},
        )
        body, events = response.content, []
        while body[0] == 0:
            size = int.from_bytes(body[1:5], "big")
            events.append(StartResponse.from_binary(body[5 : 5 + size]).event.event)
            body = body[5 + size :]
        assert [event.field for event in events] == ["start", "data", "end"]
        assert events[1].value.output.value == b"hi\n"
        assert body[5:] == b"{}"


class TestEnvironment:
    @pytest.fixture
    def sandbox(self, sandbox: EnvdSandbox) -> EnvdSandbox:
        sandbox.env_vars.update(A="sandbox", B="sandbox")
        return sandbox

    def run(self, rpc: RpcClient, script: str, **config: Any) -> bytes:
        request = {"process": {"cmd": "/bin/bash", "args": ["-c", script], **config}, "stdin": False}
        with rpc.stream("process.Process/Start", request) as stream:
            return output(list(stream))

    def test_the_request_is_laid_over_the_sandbox(self, rpc: RpcClient) -> None:
        assert self.run(rpc, "echo $A $B $C", envs={"B": "request", "C": "request"}) == b"sandbox request request\n"

    def test_cwd(self, rpc: RpcClient, guest: LocalGuest) -> None:
        (guest.home / "sub").mkdir()
        assert self.run(rpc, "pwd") == f"{guest.home}\n".encode()
        assert self.run(rpc, "pwd", cwd="sub") == self.run(rpc, "pwd", cwd="~/sub") == f"{guest.home}/sub\n".encode()
        assert self.run(rpc, "pwd", cwd="/") == b"/\n"

    def test_the_default_cwd_of_the_sandbox(self, rpc: RpcClient, sandbox: EnvdSandbox) -> None:
        sandbox.default_workdir = "/usr"
        assert self.run(rpc, "pwd") == b"/usr\n"

    @pytest.mark.parametrize(
        ("request_", "code", "text"),
        [
            ({"process": {"cmd": "/bin/true", "cwd": "/nowhere"}}, "invalid_argument", "cwd '/nowhere' does not exist"),
            ({"process": {"cmd": "/bin/nothing"}}, "invalid_argument", "error starting process '/bin/nothing'"),
            ({"process": {"cmd": ""}}, "invalid_argument", "process.cmd is missing"),
            ({}, "invalid_argument", "process.cmd is missing"),
            ({"process": {"cmd": "a\0b"}}, "invalid_argument", "NUL"),
            ({"process": {"cmd": "a", "envs": {"a=b": "c"}}}, "invalid_argument", "environment variable"),
            ({"process": {"cmd": "a", "envs": {"": "c"}}}, "invalid_argument", "environment variable"),
            ({"process": {"cmd": "a"}, "pty": {"size": {"cols": 70000}}}, "invalid_argument", "columns"),
        ],
    )
    def test_what_cannot_start(self, rpc: RpcClient, request_: Any, code: str, text: str) -> None:
        with rpc.stream("process.Process/Start", request_) as stream:
            assert list(stream) == []
        assert stream.end is not None
        assert stream.end["error"]["code"] == code
        assert text in stream.end["error"]["message"]

    def test_an_unknown_user(self, server: EnvdServer, rpc: RpcClient) -> None:
        stranger = RpcClient(server.url, token=rpc.http.headers["X-Access-Token"], user="stranger")
        with stranger.start("true") as stream:
            assert list(stream) == []
        assert stream.end == {"error": {"code": "unauthenticated", "message": "invalid username: 'stranger'"}}


class TestReconnect:
    def test_the_next_client_gets_the_rest_exactly_once(self, rpc: RpcClient, guest: LocalGuest) -> None:
        script = "for i in $(seq 1 5); do echo $i; done; while [ ! -e go ]; do sleep 0.01; done; seq 6 2000; exit 4"
        with rpc.start(script) as stream:
            events = iter(stream)
            pid = pid_of(next(events))
            first = b""
            while first.count(b"\n") < 5:
                first += output([next(events)])
        (guest.home / "go").touch()
        with rpc.connect(pid) as stream:
            events = list(stream)
        assert pid_of(events[0]) == pid
        assert first + output(events) == "".join(f"{i}\n" for i in range(1, 2001)).encode()
        assert events[-1]["event"]["end"]["exitCode"] == 4

    def test_one_that_has_ended_can_still_be_asked(self, rpc: RpcClient, server: EnvdServer) -> None:
        with rpc.start("sleep 0.05; echo late; exit 5") as stream:
            pid = pid_of(next(iter(stream)))
        until(lambda: not rpc.unary("process.Process/List", {}).json())
        with rpc.connect(pid) as stream:
            events = list(stream)
        assert output(events) == b"late\n"
        assert events[-1]["event"]["end"]["exitCode"] == 5
        with rpc.connect(pid) as stream:
            assert output(list(stream)) == b""

    def test_by_tag(self, rpc: RpcClient) -> None:
        request = {"process": {"cmd": "/bin/cat"}, "tag": "mine", "stdin": True}
        with rpc.stream("process.Process/Start", request) as stream:
            pid = pid_of(next(iter(stream)))
        selector = {"process": {"tag": "mine"}}
        with rpc.stream("process.Process/Connect", selector) as stream:
            events = iter(stream)
            assert pid_of(next(events)) == pid
            assert rpc.unary("process.Process/CloseStdin", selector).status_code == 200
            assert "end" in next(events)["event"]
        until(lambda: not rpc.unary("process.Process/List", {}).json())
        with rpc.stream("process.Process/Connect", selector) as stream:
            assert "end" in list(stream)[-1]["event"]

    def test_ended_ones_are_forgotten(
        self, rpc: RpcClient, server: EnvdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "ENDED_LIMIT", 2)
        pids = []
        for _ in range(3):
            with rpc.start("true") as stream:
                pids.append(pid_of(next(iter(stream))))
                list(stream)
            until(lambda: not rpc.unary("process.Process/List", {}).json())
        with rpc.connect(pids[0]) as stream:
            assert list(stream) == []
        assert stream.end == {"error": {"code": "not_found", "message": f"process with pid {pids[0]} not found"}}
        with rpc.connect(pids[2]) as stream:
            assert len(list(stream)) == 2

    def test_two_clients_at_a_time_both_get_it(self, rpc: RpcClient, guest: LocalGuest) -> None:
        with rpc.start("while [ ! -e go ]; do sleep 0.01; done; seq 1000") as first:
            events = iter(first)
            pid = pid_of(next(events))
            with rpc.connect(pid) as second:
                others = iter(second)
                next(others)
                (guest.home / "go").touch()
                assert (
                    output(list(events)) == output(list(others)) == "".join(f"{i}\n" for i in range(1, 1001)).encode()
                )

    def test_a_process_that_nobody_listens_to_is_not_held_up(
        self, rpc: RpcClient, guest: LocalGuest, sandbox: EnvdSandbox
    ) -> None:
        with rpc.start("head -c 20000000 /dev/zero; echo the end; touch done; sleep 60") as stream:
            pid = pid_of(next(iter(stream)))
        until((guest.home / "done").exists)
        process = table_of(sandbox).by_pid(pid)
        assert process.output.held <= process.output.capacity
        with rpc.connect(pid) as stream:
            events = iter(stream)
            got = b""
            while not got.endswith(b"the end\n"):
                got += output([next(events)])
        assert len(got) < 2_000_000


class TestBackPressure:
    def test_a_slow_reader_makes_the_process_wait(
        self, rpc: RpcClient, guest: LocalGuest, sandbox: EnvdSandbox
    ) -> None:
        total = 60_000_000
        with rpc.start(f"head -c {total} /dev/zero; touch done") as stream:
            pid = pid_of(next(iter(stream)))
            process = table_of(sandbox).by_pid(pid)
            until(lambda: process.output.full)
            assert not (guest.home / "done").exists()
            assert process.output.held < process.output.capacity + 256 * 1024
            received = sum(len(output([event])) for event in stream)
        assert received == total
        assert process.output.dropped == 0

    def test_output_before_the_exit_arrives_even_at_a_slow_reader(
        self, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The grace after the exit counts silence, not slowness."""
        monkeypatch.setattr(managed, "SILENCE", 0.05)
        monkeypatch.setattr(managed, "AFTERMATH", 0.1)
        with rpc.start("head -c 9000000 /dev/zero") as stream:
            events = iter(stream)
            next(events)
            time.sleep(0.5)
            assert sum(len(output([event])) for event in events) == 9_000_000


class TestEndOfLife:
    def test_children_that_hold_the_pipes_do_not_hold_the_stream(self, rpc: RpcClient, guest: LocalGuest) -> None:
        began = time.monotonic()
        with rpc.start(
            "(while [ ! -e go ]; do sleep 0.01; done; echo x; echo survived > proof) & echo started"
        ) as stream:
            events = list(stream)
        assert time.monotonic() - began < 5
        assert output(events) == b"started\n"
        assert events[-1]["event"]["end"]["status"] == "exit status 0"
        (guest.home / "go").touch()
        until((guest.home / "proof").exists)

    def test_chatty_children_do_not_hold_it_either(self, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(managed, "AFTERMATH", 0.3)
        with rpc.start("yes &") as stream:
            events = list(stream)
        assert "end" in events[-1]["event"]

    def test_the_time_limit_kills(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 60", Connect_Timeout_Ms="200") as stream:
            pid = pid_of(next(iter(stream)))
            assert list(stream) == []
        assert stream.end is not None
        assert stream.end["error"]["code"] == "deadline_exceeded"
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        with rpc.connect(pid) as again:
            assert list(again)[-1]["event"]["end"]["status"] == "signal: killed"

    def test_the_time_limit_kills_also_when_the_client_has_gone(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 60", Connect_Timeout_Ms="300") as stream:
            pid = pid_of(next(iter(stream)))
        until(lambda: not os.path.exists(f"/proc/{pid}"))

    def test_the_time_limit_of_a_second_client_only_ends_its_stream(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 60") as stream:
            pid = pid_of(next(iter(stream)))
            with rpc.connect(pid, Connect_Timeout_Ms="100") as second:
                assert len(list(second)) == 1
            assert second.end is not None
            assert second.end["error"]["code"] == "deadline_exceeded"
            assert os.path.exists(f"/proc/{pid}")

    def test_it_survives_its_client(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 60") as stream:
            pid = pid_of(next(iter(stream)))
        assert [info["pid"] for info in rpc.unary("process.Process/List", {}).json()["processes"]] == [pid]
        assert os.path.exists(f"/proc/{pid}")

    def test_the_sandbox_stops(self, rpc: RpcClient, server: EnvdServer) -> None:
        with rpc.start("sleep 60") as stream:
            next(iter(stream))
            server.run(server.sandboxes.close_state("i1"))
            assert list(stream) == []
        assert stream.end is not None
        assert stream.end["error"]["code"] == "unavailable"


class TestInput:
    @pytest.fixture
    def cat(self, rpc: RpcClient) -> Any:
        request = {"process": {"cmd": "/bin/cat"}, "stdin": True}
        with rpc.stream("process.Process/Start", request) as stream:
            yield pid_of(next(iter(stream))), stream

    def send(self, rpc: RpcClient, pid: int, data: bytes, **headers: str) -> Any:
        message = {"process": {"pid": pid}, "input": {"stdin": base64.b64encode(data).decode()}}
        return rpc.unary("process.Process/SendInput", message, **headers)

    def test_send_and_close(self, rpc: RpcClient, cat: Any) -> None:
        pid, stream = cat
        assert self.send(rpc, pid, b"abc").json() == {}
        assert rpc.unary("process.Process/CloseStdin", {"process": {"pid": pid}}).json() == {}
        assert output(list(stream)) == b"abc"

    def test_old_clients_get_stdin_without_asking(self, rpc: RpcClient) -> None:
        with rpc.stream("process.Process/Start", {"process": {"cmd": "/bin/cat"}}) as stream:
            pid = pid_of(next(iter(stream)))
            assert self.send(rpc, pid, b"x").status_code == 200
            rpc.unary("process.Process/CloseStdin", {"process": {"pid": pid}})
            assert output(list(stream)) == b"x"

    def test_much_more_than_a_pipe_holds(self, rpc: RpcClient, cat: Any) -> None:
        pid, stream = cat
        data = os.urandom(3_000_000)
        got = b""

        def feed() -> None:
            assert self.send(rpc, pid, data).status_code == 200
            rpc.unary("process.Process/CloseStdin", {"process": {"pid": pid}})

        import threading

        feeder = threading.Thread(target=feed)
        feeder.start()
        got = output(list(stream))
        feeder.join()
        assert got == data

    def test_a_process_that_does_not_read(self, rpc: RpcClient) -> None:
        with rpc.stream("process.Process/Start", {"process": {"cmd": "/bin/sleep", "args": ["60"]}}) as stream:
            pid = pid_of(next(iter(stream)))
            answer = self.send(rpc, pid, bytes(200_000), Connect_Timeout_Ms="200")
            assert answer.status_code == 504
            assert answer.json()["code"] == "deadline_exceeded"
            assert (
                rpc.unary("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}).json()
                == {}
            )
            assert list(stream)[-1]["event"]["end"]["status"] == "signal: killed"

    def test_a_process_that_has_closed_its_input(self, rpc: RpcClient, guest: LocalGuest) -> None:
        request = {"process": {"cmd": "/bin/bash", "args": ["-c", "exec 0<&-; echo closed; sleep 60"]}}
        with rpc.stream("process.Process/Start", request) as stream:
            events = iter(stream)
            pid = pid_of(next(events))
            next(events)
            answer = self.send(rpc, pid, b"x")
            assert (answer.status_code, answer.json()["code"]) == (400, "failed_precondition")

    def test_none_was_asked_for(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 60") as stream:
            pid = pid_of(next(iter(stream)))
            assert self.send(rpc, pid, b"x").json()["code"] == "failed_precondition"
            message = {"process": {"pid": pid}, "input": {"pty": "eA=="}}
            assert rpc.unary("process.Process/SendInput", message).json()["code"] == "failed_precondition"

    def test_stream_input(self, rpc: RpcClient, cat: Any) -> None:
        pid, stream = cat
        messages = [
            {"start": {"process": {"pid": pid}}},
            {"data": {"input": {"stdin": "b25l"}}},
            {"keepalive": {}},
            {"data": {"input": {"stdin": "dHdv"}}},
        ]
        with rpc.stream("process.Process/StreamInput", *messages) as answer:
            assert list(answer) == [{}]
        rpc.unary("process.Process/CloseStdin", {"process": {"pid": pid}})
        assert output(list(stream)) == b"onetwo"

    def test_stream_input_must_begin_with_start(self, rpc: RpcClient) -> None:
        with rpc.stream("process.Process/StreamInput", {"data": {"input": {"stdin": "b25l"}}}) as answer:
            assert list(answer) == []
        assert answer.end is not None
        assert answer.end["error"]["code"] == "invalid_argument"

    def test_what_has_ended_is_not_found(self, rpc: RpcClient) -> None:
        with rpc.start("true") as stream:
            pid = pid_of(next(iter(stream)))
            list(stream)
        until(lambda: not rpc.unary("process.Process/List", {}).json())
        selector = {"process": {"pid": pid}}
        for method, message in (
            ("SendInput", selector | {"input": {"stdin": "eA=="}}),
            ("SendSignal", selector | {"signal": "SIGNAL_SIGTERM"}),
            ("CloseStdin", selector),
            ("Update", selector | {"pty": {"size": {"cols": 1, "rows": 1}}}),
        ):
            answer = rpc.unary(f"process.Process/{method}", message)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), method


class TestTerminal:
    @pytest.fixture
    def shell(self, rpc: RpcClient) -> Any:
        request = {
            "process": {"cmd": "/bin/sh", "args": ["-c", "read line; stty size; read line; stty size"]},
            "pty": {"size": {"cols": 80, "rows": 24}},
        }
        with rpc.stream("process.Process/Start", request) as stream:
            yield pid_of(next(iter(stream))), stream

    def type(self, rpc: RpcClient, pid: int) -> None:
        message = {"process": {"pid": pid}, "input": {"pty": base64.b64encode(b"\n").decode()}}
        assert rpc.unary("process.Process/SendInput", message).status_code == 200

    def test_size_and_resize(self, rpc: RpcClient, shell: Any) -> None:
        pid, stream = shell
        events, got = iter(stream), b""
        self.type(rpc, pid)
        while b"24 80" not in got:
            got += output([next(events)], "pty")
        update = {"process": {"pid": pid}, "pty": {"size": {"cols": 132, "rows": 50}}}
        assert rpc.unary("process.Process/Update", update).json() == {}
        self.type(rpc, pid)
        events = list(events)
        assert b"50 132" in output(events, "pty")
        assert events[-1]["event"]["end"]["status"] == "exit status 0"

    def test_it_has_no_stdin_to_close(self, rpc: RpcClient, shell: Any) -> None:
        pid, _ = shell
        answer = rpc.unary("process.Process/CloseStdin", {"process": {"pid": pid}})
        assert answer.json()["code"] == "failed_precondition"
        assert "0x04" in answer.json()["message"]
        message = {"process": {"pid": pid}, "input": {"stdin": "eA=="}}
        assert rpc.unary("process.Process/SendInput", message).json()["code"] == "failed_precondition"

    def test_pipes_cannot_be_resized(self, rpc: RpcClient) -> None:
        with rpc.start("sleep 60") as stream:
            pid = pid_of(next(iter(stream)))
            update = {"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}}
            assert rpc.unary("process.Process/Update", update).json()["code"] == "failed_precondition"


class TestBounds:
    def test_live_processes(self, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "LIVE_LIMIT", 1)
        with rpc.start("sleep 60") as first:
            next(iter(first))
            with rpc.start("true") as second:
                assert list(second) == []
            assert second.end is not None
            assert second.end["error"]["code"] == "resource_exhausted"

    def test_waiting_writers(self, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
        from cube.envd.process import input as input_module

        monkeypatch.setattr(input_module, "WAITING_LIMIT", 0)
        with rpc.stream("process.Process/Start", {"process": {"cmd": "/bin/cat"}}) as stream:
            pid = pid_of(next(iter(stream)))
            message = {"process": {"pid": pid}, "input": {"stdin": "eA=="}}
            assert rpc.unary("process.Process/SendInput", message).json()["code"] == "resource_exhausted"

    def test_pipes_of_what_has_ended(
        self, rpc: RpcClient, sandbox: EnvdSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "LEFTOVER_LIMIT", 1)
        for _ in range(2):
            with rpc.start("sleep 60 &") as stream:
                list(stream)
        assert len(table_of(sandbox)._leftover) == 1


def test_nothing_stays_open(rpc: RpcClient, server: EnvdServer) -> None:
    def count() -> int:
        total = 0
        for fd in os.listdir("/proc/self/fd"):
            try:
                total += any(kind in os.readlink(f"/proc/self/fd/{fd}") for kind in ("pipe:", "ptmx", "inotify"))
            except FileNotFoundError:
                continue
        return total

    before = count()
    for script in ("true", "sleep 60", "sleep 60 &", "yes > /dev/null"):
        with rpc.start(script) as stream:
            next(iter(stream))
    with rpc.stream("process.Process/Start", {"process": {"cmd": "/bin/cat"}, "pty": {}}) as stream:
        next(iter(stream))
    server.run(server.sandboxes.close_state("i1"))
    assert count() == before
