"""The authority: made once, kept, and what its certificates say."""

from __future__ import annotations

import datetime as dt
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from cube.egress.ca import CERTIFICATE, KEY, Authority, open_authority
from cube.model.errors import HostError

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return open_authority(tmp_path / "ca")


def leaf(authority: Authority, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.mint(name, NOW))


def names(certificate: x509.Certificate) -> list[object]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*found.get_values_for_type(x509.DNSName), *found.get_values_for_type(x509.IPAddress)]


def test_the_root_is_made_once_and_kept(tmp_path: Path) -> None:
    first, second = open_authority(tmp_path / "ca"), open_authority(tmp_path / "ca")

    assert first.fingerprint == second.fingerprint
    assert stat.S_IMODE((tmp_path / "ca" / KEY).stat().st_mode) == 0o600
    assert (tmp_path / "ca" / CERTIFICATE).read_bytes() == first.certificate_pem
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


def test_a_key_that_others_could_read_is_closed(tmp_path: Path) -> None:
    open_authority(tmp_path / "ca")
    (tmp_path / "ca" / KEY).chmod(0o644)

    open_authority(tmp_path / "ca")

    assert stat.S_IMODE((tmp_path / "ca" / KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize("lost", [KEY, CERTIFICATE])
def test_half_an_authority_is_never_replaced(tmp_path: Path, lost: str) -> None:
    open_authority(tmp_path / "ca")
    (tmp_path / "ca" / lost).unlink()

    with pytest.raises(HostError, match="restore it"):
        open_authority(tmp_path / "ca")


def test_a_key_of_another_authority_is_refused(tmp_path: Path) -> None:
    open_authority(tmp_path / "one")
    open_authority(tmp_path / "two")
    (tmp_path / "one" / KEY).write_bytes((tmp_path / "two" / KEY).read_bytes())

    with pytest.raises(HostError, match="do not belong together"):
        open_authority(tmp_path / "one")


def test_an_authority_half_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "ca.draft").mkdir()
    (tmp_path / "ca.draft" / KEY).write_text("half")

    assert open_authority(tmp_path / "ca").fingerprint


def test_a_leaf_is_what_clients_ask_of_a_server(authority: Authority) -> None:
    certificate = leaf(authority, "api.a.test")

    assert names(certificate) == ["api.a.test"]
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_before_utc == NOW - dt.timedelta(seconds=60)
    assert certificate.not_valid_after_utc == NOW + dt.timedelta(days=7)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    store = Store([x509.load_pem_x509_certificate(authority.certificate_pem)])
    assert PolicyBuilder().store(store).build_server_verifier(x509.DNSName("api.a.test")).verify(certificate, [])


def test_leaves_for_addresses_and_for_long_names(authority: Authority) -> None:
    long = ".".join(["a" * 60] * 4)

    assert names(leaf(authority, "203.0.113.7")) == [ipaddress.IPv4Address("203.0.113.7")]
    assert names(leaf(authority, long)) == [long]


def test_serial_numbers_do_not_repeat(authority: Authority) -> None:
    assert len({leaf(authority, "a.test").serial_number for _ in range(50)}) == 50


def test_e11_the_fingerprint_is_the_digest_of_the_certificate(authority: Authority) -> None:
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding

    der = x509.load_pem_x509_certificate(authority.certificate_pem).public_bytes(Encoding.DER)
    assert authority.fingerprint == hashlib.sha256(der).hexdigest()
