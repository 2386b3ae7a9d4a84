"""Signatures as sigstore bundles v0.3: an in-toto statement in a DSSE envelope, signed with ECDSA P-256.

Formats: https://github.com/sigstore/protobuf-specs (sigstore_bundle.proto), https://github.com/secure-systems-lab/dsse
(protocol.md, "PAE"), https://in-toto.io/Statement/v1. cosign 3 and npm `@sigstore/verify` read them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from trt_action.errors import SettingsError, VerificationError
from trt_action.publish import cosign_key

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
IMAGE_SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
"""The predicate type with which cosign 3 signs an image; its predicate is empty."""

MAX_BUNDLE_BYTES = 16_000_000
MAX_KEY_BYTES = 100_000


class Signer(Protocol):
    """Signs statements. `identity` says who, for people."""

    @property
    def identity(self) -> str: ...

    def sign(self, statement: bytes) -> bytes:
        """A bundle (JSON) with the statement in it."""

    def made(self, bundle: bytes) -> bool:
        """Whether this signer has made the bundle: then there is no need to sign again."""


@dataclass(frozen=True)
class PublicKey:
    """A key to verify with. `hint` is what a bundle calls it: base64 of the SHA-256 of its DER form."""

    key: ec.EllipticCurvePublicKey = field(repr=False)

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Read `cosign.pub` or what `openssl ec -pubout` writes.

        Raises:
            SettingsError: it is no public key on the curve P-256.
        """
        if len(pem) > MAX_KEY_BYTES or b"PRIVATE KEY" in pem:
            raise SettingsError(
                "The key to verify with is a private key, or no key.",
                fix="Give the public one (`cosign.pub`; `openssl ec -in key.pem -pubout`), and keep the private one secret.",
            )
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise SettingsError(
                "The key to verify with is no public key in PEM form.",
                fix="It begins with `-----BEGIN PUBLIC KEY-----`.",
            ) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SettingsError("The key to verify with is not on the curve P-256.", fix=_MAKE)
        return cls(key)

    @property
    def der(self) -> bytes:
        return self.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def hint(self) -> str:
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    @property
    def fingerprint(self) -> str:
        """`sha256:<hex>` of the DER form: `openssl pkey -pubin -in cosign.pub -outform DER | sha256sum`."""
        return f"sha256:{hashlib.sha256(self.der).hexdigest()}"

    def pem(self) -> str:
        """As `cosign.pub` holds it."""
        return self.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()


class KeySigner:
    """Signs with a private key. The key is in no repr, message or log."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def from_pem(cls, pem: SecretStr, passphrase: SecretStr | None = None) -> KeySigner:
        """Read a private key: PKCS #8 or SEC 1 PEM, plain or encrypted, or what `cosign generate-key-pair` writes.

        Raises:
            SettingsError: it is no private key on P-256, or the passphrase does not open it.
        """
        raw = pem.get_secret_value().strip().encode()
        secret = passphrase.get_secret_value().encode() if passphrase else None
        if len(raw) > MAX_KEY_BYTES:
            raise _bad_key("it is too large")
        try:
            if cosign_key.is_one(raw):
                key = serialization.load_der_private_key(cosign_key.decrypt(raw, secret or b""), None)
            else:
                key = serialization.load_pem_private_key(raw, secret or None)
        except TypeError:  # cryptography's word for: encrypted and no passphrase, or the other way round
            if secret:
                raise _bad_key(
                    "it is not encrypted, and there is a passphrase", fix="Leave the passphrase out."
                ) from None
            raise _bad_key("it is encrypted and no passphrase was given", fix=_GIVE_IT) from None
        except (ValueError, UnsupportedAlgorithm):  # the reason could quote the key
            raise _bad_key(
                "it is no private key in PEM form, or the passphrase is wrong", fix=f"Check both. {_MAKE}"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _bad_key("it is not on the curve P-256")
        return cls(key)

    def __repr__(self) -> str:
        return f"KeySigner({self.public.fingerprint})"

    @property
    def identity(self) -> str:
        return f"key {self.public.fingerprint}"

    def sign(self, statement: bytes) -> bytes:
        signature = self._key.sign(pae(statement), ec.ECDSA(hashes.SHA256()))
        return bundle(statement, signature, {"publicKey": {"hint": self.public.hint}})

    def made(self, bundle: bytes) -> bool:
        try:
            verify(bundle, self.public)
        except VerificationError:
            return False
        return True


def pae(payload: bytes, payload_type: str = STATEMENT) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def bundle(statement: bytes, signature: bytes, material: Mapping[str, Any]) -> bytes:
    """A bundle v0.3. `material`: `publicKey`, or `certificate` and `tlogEntries`."""
    return json.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"tlogEntries": [], **material},
            "dsseEnvelope": {
                "payload": base64.b64encode(statement).decode(),
                "payloadType": STATEMENT,
                "signatures": [{"sig": base64.b64encode(signature).decode()}],
            },
        },
        separators=(",", ":"),
        sort_keys=True,
    ).encode()


@dataclass(frozen=True)
class Envelope:
    """What a bundle says, before anything of it is believed. `statement` is the signed bytes."""

    statement: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    material: Mapping[str, Any] = field(repr=False)

    def parsed(self) -> dict[str, Any]:
        """The statement.

        Raises:
            VerificationError: it is no in-toto statement.
        """
        try:
            data = json.loads(self.statement)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict) or data.get("_type") != STATEMENT_TYPE:
            raise _bad_bundle("what is signed is no in-toto statement v1")
        return data


def read(raw: bytes) -> Envelope:
    """Take a bundle apart.

    Raises:
        VerificationError: it is no bundle v0.3 with one signature over one statement.
    """
    try:
        data: Any = json.loads(raw) if len(raw) <= MAX_BUNDLE_BYTES else None
        envelope = data["dsseEnvelope"]
        kind, (signature,) = envelope["payloadType"], envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        sig = base64.b64decode(signature["sig"], validate=True)
        material = data["verificationMaterial"]
        media_type = data["mediaType"]
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        raise _bad_bundle("it is no sigstore bundle with one signature in a DSSE envelope") from None
    if media_type not in (BUNDLE, "application/vnd.dev.sigstore.bundle+json;version=0.3"):
        raise _bad_bundle("it is no sigstore bundle of version 0.3")
    if kind != STATEMENT or not isinstance(material, dict):
        raise _bad_bundle("what is signed is no in-toto statement")
    return Envelope(payload, sig, material)


def verify(raw: bytes, key: PublicKey) -> dict[str, Any]:
    """The statement in a bundle, if this key signed it.

    Raises:
        VerificationError: it did not, or it is no such bundle.
    """
    envelope = read(raw)
    try:
        key.key.verify(envelope.signature, pae(envelope.statement), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise VerificationError(
            f"The signature is not one of the key {key.fingerprint}.",
            why="Another key signed, or what was signed has been changed since.",
            fix="Verify with the publisher's public key; if it is that one, do not use the image.",
        ) from None
    return envelope.parsed()


_MAKE = "Make one: `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`, or `cosign generate-key-pair`."


_GIVE_IT = (
    "Give it as `sign-key-password` (of the action), or in the variable SIGN_KEY_PASSWORD (`trt-action publish`)."
)


def _bad_key(why: str, *, fix: str = _MAKE) -> SettingsError:
    return SettingsError(f"The signing key cannot be used: {why}.", fix=fix)


def _bad_bundle(why: str) -> VerificationError:
    return VerificationError(f"A signature cannot be read: {why}.")
