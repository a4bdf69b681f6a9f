"""Encryption of the columns that hold secrets: AES-256-GCM under one key file beside the database.

A sealed value is a version byte, a nonce of 12 bytes and the ciphertext with its tag. The context (the id of the row)
is authenticated too, so a value cannot be moved from one row to another.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cube.model.errors import HostError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = b"\x01"


class SecretBox:
    """Seals and opens byte strings under one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._digest_key = hashlib.blake2b(b"digest", key=key).digest()

    @classmethod
    def from_file(cls, path: Path) -> SecretBox:
        """Use the key in ``path``, made on first use; ``HostError`` when it is unusable or others may read it."""
        if not path.exists():
            _make_key(path)
        return cls(_read_key(path))

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Encrypt ``plain`` for the row named by ``context``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, context)

    def digest(self, *parts: bytes) -> str:
        """A name of these byte strings, 64 hexadecimal digits, from which nobody without the key learns anything."""
        digest = hashlib.blake2b(key=self._digest_key, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8) + part)
        return digest.hexdigest()

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt what :meth:`seal` made with the same key and context; raises ``HostError`` for anything else."""
        if sealed[:1] != _VERSION:
            raise HostError("a stored secret has an unknown format: it was written by a newer version of cube")
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, context)
        except (InvalidTag, ValueError) as error:
            raise HostError(
                "a stored secret does not open with this secret.key: put back the key file that belongs to the database"
            ) from error


def _make_key(path: Path) -> None:
    """Write a fresh key; when two processes do so at once, one of the keys wins and both use it."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES).hex().encode())
            file.flush()
            os.fsync(file.fileno())
        _link_once(draft, path)
    finally:
        draft.unlink()


def _link_once(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        return


def _read_key(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise HostError(f"{path} may be read by others: run `chmod 600 {path}`")
        text = file.read(4 * _KEY_BYTES)
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise HostError(f"{path} is not a key of {_KEY_BYTES} bytes: put back the file that belongs to the database")
    return key
