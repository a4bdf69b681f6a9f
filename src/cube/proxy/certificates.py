"""The certificate of the public port: the operator's, or one of an authority that this instance makes for itself.

``state_dir/tls`` holds, when there is no other:

``ca.pem``, ``ca-key.pem``    the authority; its certificate says that it vouches for the instance's own names alone
``server.pem``, ``server-key.pem``    the certificate of the public port, made anew a month before it ends
``bundle.pem``                the system's authorities and ours, for clients that take one file
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as Key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cube.model.errors import HostError
from cube.settings import Settings

_AUTHORITY_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=397)
_RENEWAL = timedelta(days=30)
#: Clocks of clients may be behind.
_BACKDATED = timedelta(hours=1)
_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain and its key, both in PEM."""

    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS on the public port, beside plain HTTP."""

    certificate: Certificate
    #: Whether plain HTTP is for clients on this machine alone.
    only: bool


def of(settings: Settings) -> Tls | None:
    """What the settings say about TLS, with the certificate as it is now; one is made when there is none.

    Raises ``HostError``.
    """
    if settings.tls == "off":
        return None
    if settings.tls_certificate:
        certificate = load(Path(settings.tls_certificate), Path(settings.tls_key))
    else:
        certificate = own(settings.tls_dir, settings.public_name, settings.public_addresses)
    return Tls(certificate, only=settings.tls == "only")


def load(chain: Path, key: Path) -> Certificate:
    """The operator's certificate. Raises ``HostError`` when a file cannot be read or the key is another one's."""
    try:
        certificate = Certificate(chain.read_text(), key.read_text())
        public = serialization.load_pem_private_key(certificate.key.encode(), None).public_key()
        own = x509.load_pem_x509_certificates(certificate.chain.encode())[0].public_key()
    except (OSError, ValueError, TypeError) as error:
        raise HostError(f"the certificate {chain} with the key {key} cannot be used: {error}") from error
    if public != own:
        raise HostError(f"the key {key} does not belong to the certificate {chain}")
    return certificate


def own(directory: Path, domain: str, addresses: Sequence[str] = ()) -> Certificate:
    """A certificate for ``domain``, all names below it and these addresses, from the instance's own authority.

    What is there already is used again as long as it fits. Raises ``HostError``.
    """
    names = _Names(domain, tuple(sorted({"127.0.0.1", "::1", *addresses})))
    try:
        directory.mkdir(mode=0o755, exist_ok=True)
        if not _fits(directory, names):
            _make(directory, names)
        return Certificate((directory / "server.pem").read_text(), (directory / "server-key.pem").read_text())
    except (OSError, ValueError) as error:
        raise HostError(f"no certificate could be made in {directory}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Names:
    domain: str
    addresses: tuple[str, ...]

    def subjects(self) -> list[x509.GeneralName]:
        """What a certificate is for."""
        names: list[x509.GeneralName] = [x509.DNSName(self.domain), x509.DNSName(f"*.{self.domain}")]
        return names + [x509.IPAddress(ipaddress.ip_address(address)) for address in self.addresses]

    def limits(self) -> list[x509.GeneralName]:
        """What an authority may vouch for."""
        networks = [ipaddress.ip_network(address) for address in self.addresses]
        return [x509.DNSName(self.domain), *map(x509.IPAddress, networks)]


def _fits(directory: Path, names: _Names) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "server.pem").read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return False
    fresh = certificate.not_valid_after_utc - datetime.now(UTC) > _RENEWAL
    return fresh and set(found) == set(names.subjects()) and (directory / "server-key.pem").exists()


def _make(directory: Path, names: _Names) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority, authority_key = _authority(directory, names)
    subject = _name(f"cube {names.domain}")
    builder = _builder(subject, authority.subject, key, _SERVER_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names.subjects()), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    certificate = builder.sign(authority_key, hashes.SHA256())
    _write(directory / "server-key.pem", _private(key), 0o600)
    _write(directory / "server.pem", _pem(certificate), 0o644)


def _authority(directory: Path, names: _Names) -> tuple[x509.Certificate, Key]:
    """The authority that is there, if it may vouch for these names, else a new one."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
        limits = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return _new_authority(directory, names)
    lasting = certificate.not_valid_after_utc - datetime.now(UTC) > _SERVER_LIFE
    if not lasting or set(limits or ()) != set(names.limits()) or not isinstance(key, Key):
        return _new_authority(directory, names)
    return certificate, key


def _new_authority(directory: Path, names: _Names) -> tuple[x509.Certificate, Key]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"cube's own authority for {names.domain}")
    builder = _builder(subject, subject, key, _AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.NameConstraints(names.limits(), None), critical=True)
    builder = builder.add_extension(_usage(), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write(directory / "ca-key.pem", _private(key), 0o600)
    _write(directory / "ca.pem", _pem(certificate), 0o644)
    system = _SYSTEM_BUNDLE.read_bytes() if _SYSTEM_BUNDLE.exists() else b""
    _write(directory / "bundle.pem", system + _pem(certificate), 0o644)
    return certificate, key


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, life: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(now + life)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage() -> x509.KeyUsage:
    others = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    unused = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **unused)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: Key) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put a file in the place of another, whole or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    new.rename(path)
