"""The authority whose certificates stand for the world's servers inside of sandboxes.

The root is made once and kept: templates have it baked in. Leaves share one key, which lives in memory: whoever could
take it could take the root's key too, and signing alone costs a tenth of a millisecond.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cube.model.errors import HostError

CERTIFICATE, KEY = "cube-root-ca.crt", "cube-root-ca.key"
_NAME = "Cube Egress Root CA"
_ROOT_LIFE = dt.timedelta(days=3650)
#: How long a leaf is valid.
LEAF_LIFE = dt.timedelta(days=7)
#: A sandbox's clock may be a little behind.
_SLACK = dt.timedelta(seconds=60)
#: Names in certificates end here; longer ones stand in the alternative names alone.
_LONGEST_COMMON_NAME = 64


class Authority:
    """A root certificate with its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self.leaf_key_pem = _key_pem(self._leaf_key)

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root certificate in DER form, in hexadecimal."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    def mint(self, name: str, now: dt.datetime | None = None) -> bytes:
        """A server certificate for a name or IPv4 address, in PEM form, without the root."""
        now = now or dt.datetime.now(dt.UTC)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if len(name) <= _LONGEST_COMMON_NAME else []
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(_serial())
            .not_valid_before(now - _SLACK)
            .not_valid_after(now + LEAF_LIFE)
            .add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=not subject)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(_authority_key(self._certificate), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def open_authority(directory: Path) -> Authority:
    """The authority of a directory, made when there is none yet.

    Raises ``HostError`` when what is there cannot be used: it is never replaced, as templates trust it.
    """
    if not directory.exists():
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _make(directory)
    return _load(directory)


def _load(directory: Path) -> Authority:
    try:
        (certificate,) = x509.load_pem_x509_certificates((directory / CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((directory / KEY).read_bytes(), None)
    except (OSError, ValueError) as error:
        raise HostError(f"the egress CA in {directory} cannot be read: {error}; restore it from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise HostError(f"certificate and key of the egress CA in {directory} do not belong together")
    (directory / KEY).chmod(0o600)
    return Authority(certificate, key)


def _make(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_serial())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # Both or none: the directory gets its name when it is complete.
    draft = directory.with_name(directory.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o755)
    _write(draft / KEY, _key_pem(key), 0o600)
    _write(draft / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    draft.rename(directory)


def _write(path: Path, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _serial() -> int:
    # 16 bytes, the first bit clear: serial numbers are positive.
    return int.from_bytes(os.urandom(16), "big") >> 1 or 1


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.IPv4Address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
