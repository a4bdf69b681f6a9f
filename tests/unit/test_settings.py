"""docs/settings.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cube.model.network import CONNECTION_STEPS
from cube.settings import Settings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_default_and_meaning(name: str) -> None:
    field = Settings.model_fields[name]
    default = str(field.default) or "(empty)"
    row = f"| `CUBE_{name.upper()}` | `{default}` | {field.description} |"
    assert row in DOCUMENT.read_text()


def test_nothing_else_is_documented() -> None:
    documented = [line.split("`")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `CUBE_")]
    assert documented == [f"CUBE_{name.upper()}" for name in Settings.model_fields]


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBE_PORT", "8080")
    monkeypatch.setenv("CUBE_HOST", "0.0.0.0")
    settings = Settings()
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.public_domain == "localhost:8080"


@pytest.mark.parametrize("variable", ["CUBE_AUTH_CALLBACK_URL", "AUTH_CALLBACK_URL"])
def test_the_callback_has_cubesandboxes_name_too(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "https://auth.test/check")
    assert Settings().auth_callback_url == "https://auth.test/check"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("network_cidr", "10.0.0.0/30"),
        ("network_cidr", "x"),
        ("instance", "Not Valid"),
        ("log_level", "loud"),
        ("auth_callback_url", "ftp://x"),
        ("auth_callback_url", "http://"),
        ("host_mount_prefixes", "/"),
        ("host_mount_prefixes", "/data,/"),
        ("host_mount_prefixes", "//./"),
        ("host_mount_prefixes", "data"),
        ("host_mount_prefixes", "/data/../.."),
        ("tls", "yes"),
        ("host_mount_uid", 0),
        ("host_mount_uid", 0x2000_0000),
    ],
)
def test_nonsense_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_names_with_and_without_tls() -> None:
    assert (Settings().public_domain, Settings().public_name) == ("localhost:3000", "localhost")
    secured = Settings(tls="also", port=8443)
    assert (secured.public_domain, secured.public_name) == ("cube.localhost:8443", "cube.localhost")
    assert Settings(domain="sandboxes.test").public_name == "sandboxes.test"
    with pytest.raises(ValidationError, match="needs a dot"):
        Settings(tls="only", domain="sandboxes")


def test_the_key_is_not_shown() -> None:
    assert "e2b_secret" not in repr(Settings(api_key="e2b_secret"))


def test_directories_of_the_host_are_cleaned() -> None:
    settings = Settings(host_mount_prefixes="/data/shared/,//srv/./x")
    assert settings.host_mount_directories == ("/data/shared", "/srv/x")
    assert Settings().host_mount_directories == ()


def test_ids_of_shared_files_need_room() -> None:
    with pytest.raises(ValidationError, match="131072"):
        Settings(id_base=65536, host_mount_prefixes="/data")


def test_steps_of_connections_are_those_of_the_model() -> None:
    for step in CONNECTION_STEPS:
        assert Settings(sandbox_connections=step).sandbox_connections == step
    with pytest.raises(ValidationError, match=", ".join(map(str, CONNECTION_STEPS))):
        Settings(sandbox_connections=CONNECTION_STEPS[0] + 1)


def test_servers_for_names_are_addresses() -> None:
    assert Settings(dns_servers="203.0.113.53, 9.9.9.9").dns_server_list == ("203.0.113.53", "9.9.9.9")
    with pytest.raises(ValidationError):
        Settings(dns_servers="dns.test")
