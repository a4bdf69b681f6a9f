from __future__ import annotations

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cube.model.errors import HostError
from cube.proxy import certificates
from cube.settings import Settings


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tls"


def verified(directory: Path, name: str, chain: str) -> bool:
    """Whether OpenSSL takes a certificate for a name, trusting the authority in the directory alone."""
    (directory.parent / "leaf.pem").write_text(chain)
    kind = "-verify_ip" if ":" in name or name.replace(".", "").isdigit() else "-verify_hostname"
    command = ["openssl", "verify", "-CAfile", directory / "ca.pem", kind, name, directory.parent / "leaf.pem"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_own_certificate_is_for_the_domain_and_everything_below(directory: Path) -> None:
    chain = certificates.own(directory, "sandboxes.test", ["192.0.2.7"]).chain
    for name in ("sandboxes.test", "api.sandboxes.test", "49983-i1.sandboxes.test", "127.0.0.1", "192.0.2.7", "::1"):
        assert verified(directory, name, chain), name
    for name in ("other.test", "a.b.sandboxes.test", "192.0.2.8"):
        assert not verified(directory, name, chain), name


def test_keys_are_for_root_alone(directory: Path) -> None:
    certificates.own(directory, "sandboxes.test")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "server.pem": 0o644,
        "server-key.pem": 0o600,
        "bundle.pem": 0o644,
    }


def test_the_authority_may_not_vouch_for_others(directory: Path) -> None:
    """A client that trusts it is safe although the key lies on the node."""
    certificates.own(directory, "sandboxes.test")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "k.pem"]
    names = ["-subj", "/CN=bank.test", "-addext", "subjectAltName=DNS:bank.test"]
    command = ["openssl", "req", "-new", *key, *names, "-out", "request.pem"]
    subprocess.run(command, cwd=directory.parent, check=True, capture_output=True)
    signing = ["-CA", directory / "ca.pem", "-CAkey", directory / "ca-key.pem", "-copy_extensions", "copy"]
    command = ["openssl", "x509", "-req", "-in", "request.pem", *signing, "-out", "forged.pem"]
    subprocess.run(command, cwd=directory.parent, check=True, capture_output=True)
    assert not verified(directory, "bank.test", (directory.parent / "forged.pem").read_text())


def test_it_is_used_again(directory: Path) -> None:
    first = certificates.own(directory, "sandboxes.test")
    assert certificates.own(directory, "sandboxes.test") == first


def test_a_certificate_is_renewed_before_it_ends_by_the_same_authority(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_SERVER_LIFE", timedelta(days=29))
    old = certificates.own(directory, "sandboxes.test")
    authority = (directory / "ca.pem").read_text()
    monkeypatch.undo()
    new = certificates.own(directory, "sandboxes.test")
    assert new != old
    assert (directory / "ca.pem").read_text() == authority
    until = x509.load_pem_x509_certificate(new.chain.encode()).not_valid_after_utc
    assert until - datetime.now(UTC) > timedelta(days=300)


@pytest.mark.parametrize("broken", ["server.pem", "ca.pem", "ca-key.pem"])
def test_what_is_broken_is_made_anew(directory: Path, broken: str) -> None:
    certificates.own(directory, "sandboxes.test")
    (directory / broken).write_text("-----BEGIN NONSENSE-----")
    (directory / "server.pem").unlink(missing_ok=True)
    assert verified(directory, "api.sandboxes.test", certificates.own(directory, "sandboxes.test").chain)


def test_another_domain_is_another_authority(directory: Path) -> None:
    certificates.own(directory, "first.test")
    chain = certificates.own(directory, "second.test").chain
    assert verified(directory, "api.second.test", chain)


def test_the_bundle_has_the_systems_authorities_too(directory: Path) -> None:
    certificates.own(directory, "sandboxes.test")
    context = ssl.create_default_context(cafile=directory / "bundle.pem")
    assert context.cert_store_stats()["x509_ca"] >= 1


def test_the_operators_certificate(directory: Path) -> None:
    certificates.own(directory, "sandboxes.test")
    made = certificates.load(directory / "server.pem", directory / "server-key.pem")
    assert made == certificates.own(directory, "sandboxes.test")
    with pytest.raises(HostError, match="does not belong"):
        certificates.load(directory / "server.pem", directory / "ca-key.pem")
    with pytest.raises(HostError, match="cannot be used"):
        certificates.load(directory / "server.pem", directory / "missing.pem")
    with pytest.raises(HostError, match="cannot be used"):
        certificates.load(directory / "server-key.pem", directory / "server-key.pem")


def test_what_the_settings_say(tmp_path: Path) -> None:
    assert certificates.of(Settings(state_dir=tmp_path)) is None
    tls = certificates.of(Settings(state_dir=tmp_path, tls="only", domain="sandboxes.test:8443"))
    assert tls is not None
    assert tls.only
    assert verified(tmp_path / "tls", "api.sandboxes.test", tls.certificate.chain)
    assert "PRIVATE" not in repr(tls)
    with pytest.raises(ValueError, match="go together"):
        Settings(tls_certificate="/x.pem")
