"""Keyless signatures: the job's OIDC token buys a certificate for a key that lives for one signature.

Fulcio (https://github.com/sigstore/fulcio/blob/main/fulcio.swagger.json, `POST /api/v2/signingCert`) certifies the key;
Rekor (https://github.com/sigstore/rekor/blob/main/openapi.yaml, `POST /api/v1/log/entries`, kind `dsse`) records that the
signature was made while the certificate was valid. The tests run this against doubles only: see docs/supply-chain.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import requests
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from trt_action import __version__, http
from trt_action.console import clean
from trt_action.errors import SettingsError, VerificationError
from trt_action.publish import signing

FULCIO = "https://fulcio.sigstore.dev"
REKOR = "https://rekor.sigstore.dev"
AUDIENCE = "sigstore"
MAX_ANSWER_BYTES = 4_000_000
TIMES = (10.0, 30.0)
"""Seconds for a connection, and for an answer."""


def identity_token(session: requests.Session, env: Mapping[str, str], patience: http.Patience) -> SecretStr | None:
    """The job's OIDC token: SIGSTORE_ID_TOKEN (GitLab's `id_tokens`), else asked of GitHub's runner; None without one.

    Raises:
        SettingsError: the runner offers a token and does not give it.
    """
    if given := env.get("SIGSTORE_ID_TOKEN"):
        return SecretStr(given)
    url, bearer = env.get("ACTIONS_ID_TOKEN_REQUEST_URL"), env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not bearer:
        return None
    joined = f"{url}{'&' if '?' in url else '?'}audience={AUDIENCE}"
    send = _sender(session, "GET", joined, headers={"Authorization": f"Bearer {bearer}"})
    answer = _ask(send, "The runner's OIDC token", patience)
    token = answer.get("value")
    if not isinstance(token, str) or token.count(".") != 2:
        raise SettingsError("The runner answered without an OIDC token.", fix=_PERMISSION)
    return SecretStr(token)


class KeylessSigner:
    """Signs as the identity in the token. Each signature gets its own key, certificate and log entry."""

    def __init__(
        self,
        session: requests.Session,
        token: SecretStr,
        *,
        fulcio: str = FULCIO,
        rekor: str = REKOR,
        patience: http.Patience | None = None,
    ) -> None:
        self._session, self._token = session, token
        self._fulcio, self._rekor = fulcio.rstrip("/"), rekor.rstrip("/")
        self._patience = patience or http.Patience(seconds=120)
        self._subject = _subject(token)

    def __repr__(self) -> str:
        return f"KeylessSigner({self._fulcio!r})"

    @property
    def identity(self) -> str:
        return f"keyless, certified by {self._fulcio}"

    def sign(self, statement: bytes) -> bytes:
        """A bundle with certificate and log entry.

        Raises:
            SettingsError: Fulcio or Rekor refused, or could not be reached.
            VerificationError: what they answered does not belong to this key or signature.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(key)
        signature = key.sign(signing.pae(statement), ec.ECDSA(hashes.SHA256()))
        unlogged = json.loads(signing.bundle(statement, signature, {}))
        entry = self._record(unlogged["dsseEnvelope"], certificate)
        der = certificate.public_bytes(serialization.Encoding.DER)
        material = {"certificate": {"rawBytes": base64.b64encode(der).decode()}, "tlogEntries": [entry]}
        return signing.bundle(statement, signature, material)

    def made(self, bundle: bytes) -> bool:
        """Never known: whose certificate a bundle holds cannot be checked without sigstore's trusted root. So a rerun
        signs again; what was signed before stays valid."""
        return False

    def _certify(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        proof = key.sign(self._subject.encode(), ec.ECDSA(hashes.SHA256()))
        body = {
            "credentials": {"oidcIdentityToken": self._token.get_secret_value()},
            "publicKeyRequest": {
                "publicKey": {"algorithm": "ECDSA", "content": public.decode()},
                "proofOfPossession": base64.b64encode(proof).decode(),
            },
        }
        send = _sender(self._session, "POST", f"{self._fulcio}/api/v2/signingCert", body=body)
        answer = _ask(send, "Fulcio", self._patience)
        found = answer.get("signedCertificateEmbeddedSct") or answer.get("signedCertificateDetachedSct")
        try:
            leaf = x509.load_pem_x509_certificate(found["chain"]["certificates"][0].encode())  # type: ignore[index]
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            raise VerificationError("Fulcio's answer holds no certificate.", fix=_LATER) from None
        if leaf.public_key() != key.public_key():
            raise VerificationError("Fulcio certified another key than the one that signs.", fix=_LATER)
        return leaf

    def _record(self, envelope: Mapping[str, Any], certificate: x509.Certificate) -> dict[str, Any]:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        body = {
            "kind": "dsse",
            "apiVersion": "0.0.1",
            "spec": {
                "proposedContent": {
                    "envelope": json.dumps(envelope, separators=(",", ":"), sort_keys=True),
                    "verifiers": [base64.b64encode(pem).decode()],
                }
            },
        }
        send = _sender(self._session, "POST", f"{self._rekor}/api/v1/log/entries", body=body)
        answer = _ask(send, "Rekor", self._patience)
        try:
            (entry,) = answer.values()
            return _log_entry(entry, base64.b64decode(envelope["payload"]))
        except (TypeError, KeyError, ValueError, AttributeError, binascii.Error):
            raise VerificationError("Rekor's answer is no entry of its log for this signature.", fix=_LATER) from None


def _log_entry(entry: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
    """Rekor's answer as a bundle holds it (protobuf JSON: 64-bit numbers are strings, bytes are base64)."""
    recorded = json.loads(base64.b64decode(entry["body"], validate=True))
    if recorded["spec"]["payloadHash"]["value"] != hashlib.sha256(payload).hexdigest():
        raise ValueError
    proof = entry["verification"]["inclusionProof"]
    return {
        "logIndex": str(int(entry["logIndex"])),
        "logId": {"keyId": _base64(entry["logID"])},
        "kindVersion": {"kind": recorded["kind"], "version": recorded["apiVersion"]},
        "integratedTime": str(int(entry["integratedTime"])),
        "inclusionPromise": {"signedEntryTimestamp": str(entry["verification"]["signedEntryTimestamp"])},
        "inclusionProof": {
            "logIndex": str(int(proof["logIndex"])),
            "rootHash": _base64(proof["rootHash"]),
            "treeSize": str(int(proof["treeSize"])),
            "hashes": [_base64(one) for one in proof["hashes"]],
            "checkpoint": {"envelope": str(proof["checkpoint"])},
        },
        "canonicalizedBody": str(entry["body"]),
    }


def signed_by(material: Mapping[str, Any]) -> dict[str, str]:
    """Who a bundle's certificate names (`subject`, `issuer`), unverified; `{}` where there is none that can be read."""
    try:
        raw = base64.b64decode(material["certificate"]["rawBytes"], validate=True)
        certificate = x509.load_der_x509_certificate(raw)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        subject = [str(name.value) for name in names if isinstance(name.value, str)]
    except (KeyError, TypeError, ValueError, binascii.Error, x509.ExtensionNotFound, InvalidSignature):
        return {}
    found = {"subject": ", ".join(subject)}
    for extension in certificate.extensions:
        # Fulcio's OIDs: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md (the issuer, as DER string)
        if extension.oid.dotted_string == "1.3.6.1.4.1.57264.1.8":
            value = getattr(extension.value, "value", b"")
            found["issuer"] = value[2:].decode("utf-8", "replace") if value[:1] == b"\x0c" else ""
    return found


def _subject(token: SecretStr) -> str:
    """What Fulcio wants signed: the token's `sub`, or its verified `email`."""
    try:
        middle = token.get_secret_value().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return str(claims.get("email") or claims["sub"])
    except (IndexError, ValueError, KeyError, AttributeError, TypeError, binascii.Error):
        raise SettingsError("The job's OIDC token cannot be read.", fix=_PERMISSION) from None


Send = Callable[[], requests.Response]


def _sender(
    session: requests.Session,
    method: str,
    url: str,
    *,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Send:
    """One request, without redirects: the token goes to the address that was asked and to no other."""
    sent = {"Accept": "application/json", "User-Agent": f"trt-action/{__version__}", **(headers or {})}
    return lambda: session.request(
        method, url, json=body, headers=sent, timeout=TIMES, allow_redirects=False, stream=True
    )


def _ask(send: Send, who: str, patience: http.Patience) -> dict[str, Any]:
    """The JSON object that a service answers; asked again while it is busy."""
    tries = patience.tries()
    while True:
        wait: float | None = None
        try:
            with send() as response:
                content = _content(response)
                if response.status_code in (200, 201):
                    return _parsed(content, who)
                said = f"{who} answered HTTP {response.status_code}: {_message(content)}"
                if response.status_code in (429, 500, 502, 503, 504):
                    wait = patience.retry_after(response.headers) or patience.backoff(tries.number)
        except requests.RequestException as error:  # it holds the request and the token: it goes no further
            lost = http.lost(error)
            said = f"{who} gave no answer: {lost.reason}"
            wait = None if lost.final else patience.backoff(tries.number)
        if not tries.again(wait, said, who):
            raise SettingsError(f"{said}.", why="Without it there is no keyless signature.", fix=_INSTEAD)


def _content(response: requests.Response) -> bytes:
    """The first bytes of an answer: more than these services have to say."""
    content = bytearray()
    for piece in response.iter_content(65_536):
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            break
    return bytes(content)


def _parsed(content: bytes, who: str) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise VerificationError(f"{who} answered with something that is no JSON object.", fix=_LATER)
    return data


def _message(content: bytes) -> str:
    try:
        return clean(str(json.loads(content)["message"]))[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "no reason given"


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


_PERMISSION = (
    "Give the job `permissions: {id-token: write}` (GitLab: `id_tokens: {SIGSTORE_ID_TOKEN: {aud: sigstore}}`)."
)
_INSTEAD = "Run it again later, or sign with a key (`sign-key`)."
_LATER = "Run it again; if it stays, sign with a key (`sign-key`) and look at https://status.sigstore.dev."
