"""Puts the egress CA into a tree, so that programs in its sandboxes believe the certificates of the outbound proxy.

The tree's content is hostile: all paths are resolved inside of it. Doing it again changes nothing.
"""

from __future__ import annotations

import binascii
import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cube.egress.ca import Authority
from cube.master.templates.tree import Tree
from cube.model.errors import HostError, InvalidInput
from cube.model.template import BakedCa

#: Where distributions keep all certificates in one file: Debian, Fedora, and Fedora's older path.
BUNDLES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
)
#: Where they look for certificates of one's own when they make those files anew.
ANCHOR_DIRECTORIES = (
    "usr/local/share/ca-certificates",
    "etc/pki/ca-trust/source/anchors",
    "etc/ca-certificates/trust-source",
)
ANCHOR = "cube-egress-root.crt"
#: For programs that bring certificates of their own and take more from a file.
ALONE = "etc/ssl/certs/cube-egress-root.pem"
_MOST_BUNDLE_BYTES = 16 << 20
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")


def bake(files: Tree, authority: Authority) -> BakedCa:
    """Put the authority's certificate where programs look for it; says where that was.

    Raises ``InvalidInput`` when a bundle is no file of a sensible size.
    """
    pem = authority.certificate_pem
    der = _der(pem)
    bundles = [path for path in BUNDLES if _is_there(files, path)] or [BUNDLES[0]]
    for path in bundles:
        _append(files, path, pem, der)
    anchors = [f"{path}/{ANCHOR}" for path in ANCHOR_DIRECTORIES if _is_directory(files, path)]
    for path in (*anchors, ALONE):
        files.write(path, pem)
    targets = (*bundles, *anchors, ALONE)
    return BakedCa(authority.fingerprint, tuple(f"/{path}" for path in targets), f"/{bundles[0]}", f"/{ALONE}")


def environment(baked: BakedCa) -> dict[str, str]:
    """Variables by which programs find the certificate that do not look where the distribution keeps them."""
    return {
        "SSL_CERT_FILE": baked.bundle,
        "REQUESTS_CA_BUNDLE": baked.bundle,
        "NODE_EXTRA_CA_CERTS": baked.alone,
    }


def _der(pem: bytes) -> bytes:
    found = x509.load_pem_x509_certificates(pem)
    if len(found) != 1:
        raise HostError("the egress CA must be exactly one certificate")
    return found[0].public_bytes(Encoding.DER)


def _append(files: Tree, path: str, pem: bytes, der: bytes) -> None:
    """Once: a bundle that has the certificate already is left alone. A link is followed inside the tree."""
    bundle = files.read(path, _MOST_BUNDLE_BYTES) if _is_there(files, path) else b""
    if der in _certificates(bundle):
        return
    gap = b"" if not bundle or bundle.endswith(b"\n") else b"\n"
    files.write(path, bundle + gap + pem)


def _certificates(bundle: bytes) -> set[bytes]:
    found = set()
    for block in _BLOCK.finditer(bundle):
        try:
            found.add(binascii.a2b_base64(block.group(1)))
        except binascii.Error:
            # Another's certificate that is none: not ours to judge.
            continue
    return found


def _is_there(files: Tree, path: str) -> bool:
    """Whether there is a file, perhaps behind links that stay inside the tree."""
    try:
        files.open(path).close()
    except (OSError, InvalidInput):
        return False
    return True


def _is_directory(files: Tree, path: str) -> bool:
    try:
        with files.directory(path):
            return True
    except OSError:
        return False
