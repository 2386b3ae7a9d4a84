"""Private keys as `cosign generate-key-pair` writes them: PKCS #8 in a box of scrypt and NaCl's secretbox, in PEM.

Format: https://github.com/sigstore/cosign/blob/main/pkg/cosign/keys.go and go-securesystemslib's `encrypted` package.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from trt_action.errors import SettingsError

_HEADERS = (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----")
_MOST_MEMORY = 256 << 20
"""Bytes that scrypt may take; cosign's parameters (N = 65,536, r = 8) need 64 MiB."""


def is_one(pem: bytes) -> bool:
    """Whether a PEM text is such a key."""
    return pem.lstrip().startswith(_HEADERS)


def decrypt(pem: bytes, passphrase: bytes) -> bytes:
    """The PKCS #8 key (DER) inside.

    Raises:
        SettingsError: the passphrase is wrong, the file is damaged, or PyNaCl is not installed.
    """
    try:
        from nacl import exceptions, secret
    except ImportError:
        raise SettingsError(
            "The signing key is one of cosign's, and PyNaCl, which opens those, is not installed.",
            fix="Install it (`pip install pynacl`), or give the key as PKCS #8 PEM.",
        ) from None
    lines = [line.strip() for line in pem.strip().splitlines()]
    try:
        box = json.loads(base64.b64decode(b"".join(lines[1:-1]), validate=True))
        if box["kdf"]["name"] != "scrypt" or box["cipher"]["name"] != "nacl/secretbox":
            raise ValueError
        cost = box["kdf"]["params"]
        salt, nonce, sealed = (
            base64.b64decode(text, validate=True)
            for text in (box["kdf"]["salt"], box["cipher"]["nonce"], box["ciphertext"])
        )
        key = hashlib.scrypt(
            passphrase, salt=salt, n=cost["N"], r=cost["r"], p=cost["p"], maxmem=_MOST_MEMORY, dklen=32
        )
        return bytes(secret.SecretBox(key).decrypt(sealed, nonce))
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError, exceptions.CryptoError):
        raise SettingsError(
            "The signing key (cosign's format) cannot be opened: the passphrase is wrong, or the file is damaged.",
            fix="Give the passphrase that `cosign generate-key-pair` asked for, as `sign-key-password` (of the action) or in the "
            "variable SIGN_KEY_PASSWORD (`trt-action publish`).",
        ) from None
