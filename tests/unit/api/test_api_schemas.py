from __future__ import annotations

import pytest
from pydantic import ValidationError

from cube.api.schemas.base import ResponseBody, wire_name
from cube.api.schemas.requests import NewSandbox, SetTimeout
from cube.api.schemas.templates import TemplateSummary


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("template_id", "templateID"),
        ("memory_mb", "memoryMB"),
        ("disk_size_mb", "diskSizeMB"),
        ("end_at", "endAt"),
        ("state", "state"),
        ("cpu_used_pct", "cpuUsedPct"),
        ("timestamp_unix", "timestampUnix"),
    ],
)
def test_names_have_the_capitals_of_e2b(name: str, wire: str) -> None:
    assert wire_name(name) == wire


class _Body(ResponseBody):
    some_id: str
    note: str | None = None


def test_optional_fields_are_left_out() -> None:
    assert _Body(some_id="x").encoded() == b'{"someID":"x"}'
    assert _Body(some_id="x", note="y").encoded() == b'{"someID":"x","note":"y"}'


def test_nullable_fields_are_null() -> None:
    assert not TemplateSummary.omit_none


def new_sandbox(**fields: object) -> NewSandbox:
    return NewSandbox.model_validate({"templateID": "base", **fields})


def test_what_the_clients_send_is_understood() -> None:
    body = new_sandbox(
        timeout=300,
        autoPause=False,
        autoResume={"enabled": True},
        secure=True,
        allow_internet_access=False,
        metadata={"a": ""},
        envVars={"B": "x=y"},
        mcp=None,
        somethingNew=[1],
    )
    assert (body.timeout, body.allow_internet_access, body.env_vars) == (300, False, {"B": "x=y"})
    assert body.auto_resume is not None
    assert body.auto_resume.enabled


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"timeout": -2}, "timeout"),
        ({"timeout": "15"}, "timeout"),
        ({"timeout": 1.5}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": 2**31}, "timeout"),
        ({"templateID": None}, "templateID"),
        ({"templateID": "x" * 401}, "templateID"),
        ({"autoPause": "yes"}, "autoPause"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata"),
        ({"metadata": {"a": "\x00"}}, "metadata"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"metadata": {"a": "x" * 8193}}, "metadata"),
        ({"metadata": {"k" * 257: "x"}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(129)}}, "metadata"),
        ({"metadata": {str(n): "é" * 4096 for n in range(9)}}, "metadata"),
        ({"envVars": {"A=B": "x"}}, "envVars"),
        ({"envVars": {"": "x"}}, "envVars"),
        ({"envVars": {"A\x00": "x"}}, "envVars"),
        ({"envVars": {"A": "x\x00"}}, "envVars"),
        ({"envVars": {"A": "x" * 120_001}}, "envVars"),
        ({"envVars": {str(n): "x" * 100_000 for n in range(3)}}, "envVars"),
        ({"envs": {"A=": ""}}, "envs"),
        ({"lifecycle": {"onTimeout": "Pause"}}, "lifecycle"),
        ({"network": {"allowOut": "x"}}, "network"),
        ({"volumeMounts": {}}, "volumeMounts"),
    ],
)
def test_what_is_malformed_is_refused_with_its_field(fields: dict[str, object], place: str) -> None:
    with pytest.raises(ValidationError) as error:
        new_sandbox(**fields)
    assert error.value.errors()[0]["loc"][0] == place


def test_values_of_clients_do_not_end_up_in_errors() -> None:
    with pytest.raises(ValidationError) as error:
        new_sandbox(envVars={"PASSWORD": "secret\x00secret"})
    assert "secret" not in str(error.value)


def test_newlines_and_odd_names_are_no_problem() -> None:
    body = new_sandbox(envVars={"a.b-c d\n": "x\ny"}, metadata={"\n": "\n"})
    assert body.env_vars == {"a.b-c d\n": "x\ny"}


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert SetTimeout.model_validate({"timeout": 15.0}).timeout == 15


def test_a_timeout_of_zero_is_one() -> None:
    assert SetTimeout.model_validate({"timeout": 0}).timeout == 0
