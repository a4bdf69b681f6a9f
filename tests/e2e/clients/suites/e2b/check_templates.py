"""Templates that clients build."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import Client, eventually, shows


@asynccontextmanager
async def built(client: Client, template: Any, name: str, **wishes: Any) -> AsyncIterator[Any]:
    """What ``Template.build`` says of a template, which is deleted at the end of the block."""
    try:
        yield await client.Template.build(template, name, **wishes)
    finally:
        await client.Sandbox.delete_snapshot(name)


def _recipe(client: Client, directory: Path | None = None) -> Any:
    """A template's builder, whose use is noted; its methods have no colour."""
    kind = client.types.Template if client.blocking else client.types.AsyncTemplate
    return Noted(kind(file_context_path=directory) if directory else kind(), client)


class Noted:
    """A builder of which each method that is called counts as used."""

    def __init__(self, subject: Any, client: Client) -> None:
        self.subject = subject
        self._client = client

    def __getattr__(self, name: str) -> Any:
        self._client.used.add(f"Template.{name}")

        def call(*arguments: Any, **named: Any) -> Noted:
            return Noted(getattr(self.subject, name)(*arguments, **named), self._client)

        return call


@shows(
    "Template.build Template.from_template Template.run_cmd Template.set_envs Template.set_workdir Template.set_user"
)
async def check_a_template(client: Client, unique: str) -> None:
    recipe = (
        _recipe(client)
        .from_template("base")
        .set_envs({"WHO": "agent", "BOTH": "$WHO and more"})
        .set_workdir("/srv/work")
        .run_cmd(["echo one > file", "whoami >> file"])
        .run_cmd("pwd > /as-root", user="root")
        .set_user("builder")
        .run_cmd("whoami > /home/builder/me")
        .set_user("user")
    )
    lines: list[str] = []
    wishes = {"cpu_count": 1, "memory_mb": 512, "on_build_logs": lambda entry: lines.append(entry.message)}
    async with built(client, recipe.subject, unique, **wishes) as info:
        async with client.sandbox(unique) as sandbox:
            assert (await sandbox.get_info()).template_id == info.template_id
            said = (await sandbox.commands.run("pwd; echo $BOTH; cat file /as-root /home/builder/me")).stdout
            assert said == "/srv/work\nagent and more\none\nuser\n/srv/work\nbuilder\n"
        assert any("echo one" in line for line in lines)


@shows("Template.copy Template.copy_items")
async def check_files(client: Client, unique: str, tmp_path: Path) -> None:
    (tmp_path / "site/inner").mkdir(parents=True)
    for name in ("site/a.txt", "site/b.txt", "site/inner/c", "alone", "program"):
        (tmp_path / name).write_text(name)
    os.symlink("a.txt", tmp_path / "site/link")
    recipe = (
        _recipe(client, tmp_path)
        .from_template("base")
        .copy("site", "/srv/site")
        .copy("site/*.txt", "/srv/texts/")
        .copy(["alone"], "renamed", user="root")
        .copy_items([{"src": "program", "dest": "/usr/local/bin/", "mode": 0o755, "user": "root"}])
    )
    async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
        found = (await sandbox.commands.run("cd /srv; ls -1 site texts; cat site/link site/inner/c")).stdout
        assert found == "site:\na.txt\nb.txt\ninner\nlink\n\ntexts:\na.txt\nb.txt\nsite/a.txtsite/inner/c"
        stat = await sandbox.commands.run("stat -c '%U %a' /srv/site/a.txt renamed /usr/local/bin/program")
        assert stat.stdout == "user 644\nroot 644\nroot 755\n"
        assert (await sandbox.commands.run("readlink /srv/site/link")).stdout == "a.txt\n"


@shows("Template.make_dir Template.make_symlink Template.remove Template.rename")
async def check_files_in_place(client: Client, unique: str) -> None:
    recipe = (
        _recipe(client)
        .from_template("base")
        .make_dir(["dir/deep", "gone"], mode=0o750)
        .make_symlink("dir/deep", "link")
        .remove("gone", recursive=True, force=True)
        .run_cmd("echo x > old")
        .rename("old", "new", force=True)
    )
    async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
        listed = await sandbox.commands.run("ls -d dir gone link old new; stat -c %a dir/deep; readlink link; true")
        assert listed.stdout == "dir\nlink\nnew\n750\ndir/deep\n"


@shows("Template.set_start_cmd Template.set_ready_cmd functions.wait_for_port functions.wait_for_file")
async def check_a_start_command(client: Client, unique: str) -> None:
    types = client.types
    client.used |= {"functions.wait_for_port", "functions.wait_for_file"}
    server = "mkdir /home/user/www; cd /home/user/www; echo up > index.html; exec python3 -m http.server 8000"
    recipe = _recipe(client).from_template("base").set_start_cmd(server, types.wait_for_port(8000))
    async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
        assert (await sandbox.commands.run("curl -s localhost:8000")).stdout == "up\n"
        assert any(process.tag == "start" for process in await sandbox.commands.list())
    waiting = _recipe(client).from_template("base").set_ready_cmd(types.wait_for_file("/etc/passwd"))
    async with built(client, waiting.subject, unique), client.sandbox(unique) as sandbox:
        assert await sandbox.is_running()


@shows("functions.wait_for_url functions.wait_for_process functions.wait_for_timeout", since="2.31")
async def check_other_ways_to_be_ready(client: Client, unique: str) -> None:
    types = client.types
    client.used |= {"functions.wait_for_url", "functions.wait_for_process", "functions.wait_for_timeout"}
    server = "exec python3 -m http.server 8000"
    for ready in (
        types.wait_for_url("http://localhost:8000"),
        types.wait_for_process("python3"),
        types.wait_for_timeout(1000),
    ):
        recipe = _recipe(client).from_template("base").set_start_cmd(server, ready)
        async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
            assert (await sandbox.commands.run("pgrep -f http.server")).exit_code == 0


@shows("Template.build_in_background Template.get_build_status")
async def check_in_the_background(client: Client, unique: str) -> None:
    recipe = _recipe(client).from_template("base").run_cmd("echo begun; exit 5")
    info = await client.Template.build_in_background(recipe.subject, unique)
    lines: list[str] = []

    async def ended() -> bool:
        status = await client.Template.get_build_status(info, logs_offset=len(lines))
        lines.extend(entry.message for entry in status.log_entries)
        return status.status == "error" and not status.log_entries

    await eventually(ended)
    status = await client.Template.get_build_status(info)
    assert "exit code 5" in status.reason.message
    assert status.reason.step == "1"
    assert "begun" in lines
    assert await client.Sandbox.delete_snapshot(unique)


@shows("Template.skip_cache")
async def check_the_cache(client: Client, unique: str) -> None:
    async def random(recipe: Any) -> str:
        async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
            return (await sandbox.files.read("/home/user/random")).strip()

    command = f"echo {unique} $RANDOM$RANDOM$RANDOM > random"
    first = await random(_recipe(client).from_template("base").run_cmd(command))
    assert await random(_recipe(client).from_template("base").run_cmd(command)) == first
    assert await random(_recipe(client).from_template("base").skip_cache().run_cmd(command)) != first


@shows(
    "Template.exists Template.alias_exists Template.assign_tags Template.get_tags Template.remove_tags", since="2.45"
)
async def check_tags(client: Client, unique: str) -> None:
    assert not await client.Template.exists(unique)
    recipe = _recipe(client).from_template("base").run_cmd("echo one > /home/user/which")
    async with built(client, recipe.subject, f"{unique}:v1", tags=["stable"]) as info:
        assert await client.Template.exists(unique)
        assert await client.Template.alias_exists(unique)
        given = await client.Template.assign_tags(f"{unique}:v1", ["production"])
        assert (given.build_id, given.tags) == (info.build_id, ["production"])
        tags = {tag.tag: tag.build_id for tag in await client.Template.get_tags(unique)}
        assert tags == dict.fromkeys(("v1", "stable", "production"), info.build_id)
        await client.Template.remove_tags(unique, ["stable"])
        assert {tag.tag for tag in await client.Template.get_tags(unique)} == {"v1", "production"}
        async with client.sandbox(f"{unique}:production") as sandbox:
            assert await sandbox.files.read("/home/user/which") == "one\n"
        with pytest.raises(client.types.SandboxException):
            await client.Sandbox.create(f"{unique}:stable")


@shows(
    "Template.from_debian_image Template.from_ubuntu_image Template.from_python_image Template.from_node_image",
    "Template.from_bun_image Template.from_image Template.from_aws_registry Template.from_gcp_registry",
)
async def check_images(client: Client, unique: str) -> None:
    """Images of these names have been imported."""
    account = {"type": "service_account"}
    recipes = [
        _recipe(client).from_debian_image("stable"),
        _recipe(client).from_ubuntu_image("latest"),
        _recipe(client).from_python_image("3"),
        _recipe(client).from_node_image("lts"),
        _recipe(client).from_bun_image("latest"),
        _recipe(client).from_image("debian:stable", username="me", password="mine"),
        _recipe(client).from_aws_registry("debian:stable", "key", "secret", "eu-central-1"),
        _recipe(client).from_gcp_registry("debian:stable", account),
    ]
    for number, recipe in enumerate(recipes):
        name = f"{unique}-{number}"
        steps = recipe.run_cmd("whoami > made; pwd >> made; sudo whoami >> made")
        async with built(client, steps.subject, name), client.sandbox(name) as sandbox:
            assert await sandbox.files.read("made") == "user\n/home/user\nroot\n"
            assert (await sandbox.commands.run("sudo whoami")).stdout == "root\n"


@shows("Template.from_fedora_image Template.from_alpine_image Template.from_arch_image", since="2.45")
async def check_images_of_newer_clients(client: Client, unique: str) -> None:
    for recipe in (
        _recipe(client).from_fedora_image("44"),
        _recipe(client).from_alpine_image("3.24"),
        _recipe(client).from_arch_image("latest"),
    ):
        async with built(client, recipe.run_cmd("true").subject, unique), client.sandbox(unique) as sandbox:
            assert (await sandbox.commands.run("whoami")).stdout == "user\n"


@shows("Template.to_json Template.to_dockerfile")
async def check_what_a_template_says_of_itself(client: Client) -> None:
    recipe = _recipe(client).from_image("debian:stable").run_cmd("true").set_envs({"A": "b"})
    assert (await client.Template.to_dockerfile(recipe.subject)).startswith("FROM debian:stable\nRUN true\nENV A=b")
    assert json.loads(await client.Template.to_json(recipe.subject))["fromImage"] == "debian:stable"


@shows("Template.from_base_image Template.from_dockerfile")
async def check_a_dockerfile(client: Client, unique: str, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hi")
    dockerfile = "\n".join(
        (
            "FROM e2bdev/base",
            "ENV PLACE=/srv/place",
            "WORKDIR /srv/place",
            "COPY greeting .",
            "RUN cat greeting > copy && whoami >> copy && echo $PLACE >> copy",
        )
    )
    recipe = _recipe(client, tmp_path).from_dockerfile(dockerfile)
    async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
        assert await sandbox.files.read("/srv/place/copy") == "hiroot\n/srv/place\n"
    async with built(client, _recipe(client).from_base_image().run_cmd("true").subject, unique):
        assert await client.Template.exists(unique)


_FAKE = 'printf \'#!/bin/sh\\necho "$0" "$@" >> /tool-log\\n\' > {0} && chmod +x {0}'


@shows("Template.apt_install Template.npm_install Template.git_clone Template.pip_install Template.bun_install")
async def check_installs(client: Client, unique: str) -> None:
    """Without the internet: a package of the template's own making, and stand-ins for programs that it has not."""
    package = (
        "Package: cube-tool\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: nobody <n@localhost>\\nDescription: x\\n"
    )
    recipe = (
        _recipe(client)
        .from_template("base")
        .run_cmd(
            [
                f"mkdir -p /repo/tool/DEBIAN /repo/tool/opt && printf '{package}' > /repo/tool/DEBIAN/control",
                "echo tool > /repo/tool/opt/tool && dpkg-deb --build /repo/tool /repo/tool.deb >/dev/null",
                f"(printf '{package}'; printf 'Filename: ./tool.deb\\nSize: %s\\nSHA256: %s\\n' "
                '"$(stat -c %s /repo/tool.deb)" "$(sha256sum /repo/tool.deb | cut -d" " -f1)") > /repo/Packages',
                "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*",
                "mkdir -p /etc/apt && echo 'deb [trusted=yes] file:/repo ./' > /etc/apt/sources.list",
                *(_FAKE.format(f"/usr/local/bin/{tool}") for tool in ("pip", "npm", "bun")),
                "touch /tool-log && chmod 666 /tool-log",
            ],
            user="root",
        )
        .apt_install("cube-tool", no_install_recommends=True)
        .run_cmd("git init -q -b main src && cd src && git config user.email a@b && git config user.name a")
        .run_cmd("cd src && echo x > file && git add file && git commit -q -m x")
        .git_clone("/home/user/src", "cloned", branch="main")
        .pip_install(["one", "two"])
        .npm_install("three", dev=True)
        .bun_install("four", g=True)
    )
    async with built(client, recipe.subject, unique), client.sandbox(unique) as sandbox:
        said = await sandbox.commands.run("cat /opt/tool cloned/file /tool-log")
        assert said.stdout.splitlines() == [
            *("tool", "x", "/usr/local/bin/pip install one two"),
            *("/usr/local/bin/npm install --save-dev three", "/usr/local/bin/bun install -g four"),
        ]


@shows("Template.add_mcp_server Template.beta_dev_container_prebuild Template.beta_set_dev_container_start")
async def check_templates_that_bring_their_own_tools(client: Client, unique: str) -> None:
    """E2B has templates of these names; here whoever wants them builds them. The programs are stand-ins."""
    colour = "blocking" if client.blocking else "asynchronous"
    tools = {"mcp-gateway": "mcp-gateway", "devcontainer": "devcontainer"}
    for name, tool in tools.items():
        make = [_FAKE.format(f"/usr/local/bin/{tool}"), _FAKE.format("/prepare-exec.sh"), "touch /tool-log"]
        recipe = _recipe(client).from_template("base").run_cmd([*make, "chmod 666 /tool-log"], user="root")
        await client.Template.build(recipe.subject, name, tags=["default", colour])
    servers = _recipe(client).from_template("mcp-gateway").add_mcp_server(["exa", "brave"])
    async with built(client, servers.subject, f"{unique}-mcp"), client.sandbox(f"{unique}-mcp") as sandbox:
        assert "mcp-gateway pull exa brave" in await sandbox.files.read("/tool-log")
    container = (
        _recipe(client)
        .from_template("devcontainer")
        .beta_dev_container_prebuild("/work")
        .beta_set_dev_container_start("/work")
    )
    async with built(client, container.subject, f"{unique}-dev"), client.sandbox(f"{unique}-dev") as sandbox:
        log = await sandbox.files.read("/tool-log")
        assert "devcontainer build --workspace-folder /work" in log
        assert "devcontainer up --workspace-folder /work" in log
