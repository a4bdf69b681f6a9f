"""Templates built by the unmodified E2B client, on real containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import BuildException, Template
from e2b_code_interpreter import Sandbox

from support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: See :class:`support.service.Service`.
_PART = 9


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this file's own: templates that clients build stay."""
    service = Service(tmp_path_factory.mktemp("builds"), templates, _PART)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def options(service: Service) -> dict[str, str]:
    """How the client finds the service."""
    return {"api_url": service.url, "api_key": "e2b_" + "0" * 40}


def test_a_sandbox_from_what_was_built(service: Service, options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "app/inner").mkdir(parents=True)
    (tmp_path / "app/main.py").write_text("print('main')")
    (tmp_path / "app/inner/data.txt").write_text("data")
    template = (
        Template(file_context_path=tmp_path)
        .from_template("base")
        .copy("app", "/opt/app/", mode=0o750)
        .copy("app/main.py", "copy.py")
        .run_cmd("echo made > /home/user/made; whoami; pwd")
        .run_cmd("whoami > /root-file", user="root")
        .set_envs({"GREETING": "hello", "BOTH": "$GREETING world"})
        .set_workdir("/opt/app")
    )
    lines: list[str] = []
    built = Template.build(
        template, "first-one", cpu_count=1, memory_mb=512, on_build_logs=lambda e: lines.append(e.message), **options
    )
    with Sandbox.create("first-one", **service.client) as sandbox:
        info = sandbox.get_info()
        assert (info.template_id, info.name, info.cpu_count, info.memory_mb) == (built.template_id, "first-one", 1, 512)
        assert sandbox.files.read("/home/user/made") == "made\n"
        assert sandbox.files.read("/root-file") == "root\n"
        assert sandbox.commands.run("pwd; echo $BOTH; python3 main.py").stdout == "/opt/app\nhello world\nmain\n"
        found = sandbox.commands.run("cd /opt/app; stat -c '%n %U %a' . main.py inner inner/data.txt ~/copy.py").stdout
        assert found.splitlines()[1:] == [
            "main.py user 750",
            "inner user 750",
            "inner/data.txt user 750",
            "/home/user/copy.py user 644",
        ]
        assert sandbox.commands.run("sudo whoami").stdout == "root\n"
    assert any("user" in line for line in lines)
    assert any("RUN echo made" in line for line in lines)


def test_a_failing_step_is_named(options: dict[str, str]) -> None:
    template = Template().from_template("base").run_cmd("true").run_cmd("echo why >&2; exit 3")
    with pytest.raises(BuildException, match="exit code 3"):
        Template.build(template, "failing", **options)
