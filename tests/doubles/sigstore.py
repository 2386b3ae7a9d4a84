"""Fulcio, Rekor and the runner's token service on loopback: strict, stateful, with real certificates and a real log.

After Fulcio's and Rekor's own descriptions (fulcio.swagger.json; openapi.yaml and dsse_v0_0_1_schema.json). Requests are
held against the schemas below; proofs of possession and signatures are checked; certificates come from a CA of the double;
the log is one Merkle tree with signed checkpoints (RFC 6962; https://github.com/transparency-dev/formats).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from jsonschema import Draft202012Validator

SHA256 = ec.ECDSA(hashes.SHA256())
ISSUER = "https://token.actions.githubusercontent.com"
SUBJECT = "repo:team/model:ref:refs/heads/main"
WORKFLOW = "https://github.com/team/model/.github/workflows/publish.yml@refs/heads/main"
RUNNER_SECRET = "runner-secret"  # noqa: S105 - of the double
ORIGIN = "rekor.double - 1"


def _object(required: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": required, "required": list(required), "additionalProperties": False}


TEXT = {"type": "string", "minLength": 1}
SIGNING_CERT = _object(
    {
        "credentials": _object({"oidcIdentityToken": TEXT}),
        "publicKeyRequest": _object(
            {
                "publicKey": _object({"algorithm": {"enum": ["RSA_PSS", "ECDSA", "ED25519"]}, "content": TEXT}),
                "proofOfPossession": TEXT,
            }
        ),
    }
)
PROPOSED_DSSE = _object(
    {
        "kind": {"const": "dsse"},
        "apiVersion": {"const": "0.0.1"},
        "spec": _object(
            {
                "proposedContent": _object(
                    {"envelope": TEXT, "verifiers": {"type": "array", "items": TEXT, "minItems": 1}}
                )
            }
        ),
    }
)


@dataclass
class Sigstore:
    """The state. `refuse` is (path, status, times): the next requests to it are answered so."""

    url: str
    authority: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    log: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    leaves: list[bytes] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    refuse: list[list[Any]] = field(default_factory=list)
    other_key: bool = False

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "double of fulcio")])
        self.root = _certificate(name, name, self.authority.public_key(), self.authority, timedelta(days=1), ca=True)

    def trust(self) -> dict[str, Any]:
        """What `verify.mjs` needs to believe this instance."""
        return {
            "keys": {},
            "authorities": [_b64(self.root.public_bytes(serialization.Encoding.DER))],
            "logs": [{"url": ORIGIN.partition(" ")[0], "key": _b64(_der(self.log))}],
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: Any) -> tuple[int, Any]:
        self.seen.append(f"{method} {path}")
        for one in self.refuse:
            if one[0] == path and one[2] > 0:
                one[2] -= 1
                return one[1], {"code": 14, "message": "refused\n::error::for the test"}
        if (method, path) == ("GET", "/token"):
            return self._token(query, headers)
        if (method, path) == ("POST", "/api/v2/signingCert"):
            return self._certify(body)
        if (method, path) == ("POST", "/api/v1/log/entries"):
            return self._record(body)
        return 404, {"code": 5, "message": "Not Found"}

    def _token(self, query: dict[str, list[str]], headers: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {RUNNER_SECRET}" or query.get("audience") != ["sigstore"]:
            return 401, {"message": "who are you?"}
        claims = {"iss": ISSUER, "sub": SUBJECT, "aud": "sigstore", "job_workflow_ref": WORKFLOW}
        return 200, {"value": token(claims)}

    def _certify(self, body: Any) -> tuple[int, Any]:
        if problems := _problems(SIGNING_CERT, body):
            return 400, {"code": 3, "message": problems}
        claims = _claims(body["credentials"]["oidcIdentityToken"])
        if claims.get("aud") != "sigstore":
            return 401, {"code": 16, "message": "There was an error processing the identity token"}
        request = body["publicKeyRequest"]
        key = serialization.load_pem_public_key(request["publicKey"]["content"].encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(base64.b64decode(request["proofOfPossession"]), str(claims["sub"]).encode(), SHA256)
        except InvalidSignature:
            return 400, {"code": 3, "message": "The signature supplied in the request could not be verified"}
        if self.other_key:
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        leaf = _certificate(x509.Name([]), self.root.subject, key, self.authority, timedelta(minutes=10), ca=False)
        chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, self.root)]
        return 200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _record(self, body: Any) -> tuple[int, Any]:
        if problems := _problems(PROPOSED_DSSE, body):
            return 400, {"code": 400, "message": problems}
        proposed = body["spec"]["proposedContent"]
        envelope = json.loads(proposed["envelope"])
        certificate = x509.load_pem_x509_certificate(base64.b64decode(proposed["verifiers"][0]))
        payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
        (signature,) = envelope["signatures"]
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        try:
            key.verify(base64.b64decode(signature["sig"]), signed, SHA256)
        except InvalidSignature:
            return 400, {"code": 400, "message": "could not verify envelope"}
        entry = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {
                    "algorithm": "sha256",
                    "value": hashlib.sha256(proposed["envelope"].encode()).hexdigest(),
                },
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                "signatures": [{"signature": signature["sig"], "verifier": proposed["verifiers"][0]}],
            },
        }
        return 201, self._entry(_canonical(entry))

    def _entry(self, canonical: bytes) -> dict[str, Any]:
        self.leaves.append(hashlib.sha256(b"\0" + canonical).digest())
        index, time = len(self.leaves) - 1, int(datetime.now(UTC).timestamp())
        identity = hashlib.sha256(_der(self.log)).hexdigest()
        promise = {"body": _b64(canonical), "integratedTime": time, "logID": identity, "logIndex": index}
        proof = {
            "checkpoint": self._checkpoint(),
            "hashes": [one.hex() for one in _path(index, self.leaves)],
            "logIndex": index,
            "rootHash": _tree(self.leaves).hex(),
            "treeSize": len(self.leaves),
        }
        stamp = _b64(self.log.sign(_canonical(promise), SHA256))
        verification = {"inclusionProof": proof, "signedEntryTimestamp": stamp}
        return {self.leaves[-1].hex(): {**promise, "verification": verification}}

    def _checkpoint(self) -> str:
        note = f"{ORIGIN}\n{len(self.leaves)}\n{_b64(_tree(self.leaves))}\n"
        hint = hashlib.sha256(_der(self.log)).digest()[:4]
        name = ORIGIN.partition(" ")[0]
        return f"{note}\n— {name} {_b64(hint + self.log.sign(note.encode(), SHA256))}\n"


@contextlib.contextmanager
def serve() -> Iterator[Sigstore]:
    """The three services at one address, for the time of a test."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, data = state.answer(self.command, parts.path, parse_qs(parts.query), self.headers, body)
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815 - http.server's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Sigstore(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def token(claims: dict[str, Any]) -> str:
    """A JWT; its signature is nobody's concern here."""
    parts = ({"alg": "RS256"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(_canonical(one)).rstrip(b"=").decode() for one in parts), "c2ln"])


def _claims(jwt: str) -> dict[str, Any]:
    middle = jwt.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    lasts: timedelta,
    *,
    ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC) - timedelta(seconds=5)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + lasts)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
    )
    if not ca:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKFLOW)])
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
        text = x509.UnrecognizedExtension(oid, bytes([12, len(ISSUER)]) + ISSUER.encode())
        builder = builder.add_extension(san, critical=True).add_extension(text, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _tree(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, over hashed leaves."""
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return hashlib.sha256(b"\1" + _tree(leaves[:split]) + _tree(leaves[split:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*_path(index, leaves[:split]), _tree(leaves[split:])]
    return [*_path(index - split, leaves[split:]), _tree(leaves[:split])]


def _split(n: int) -> int:
    return int(1 << ((n - 1).bit_length() - 1))


def _problems(schema: dict[str, Any], data: Any) -> str:
    return "; ".join(error.message for error in Draft202012Validator(schema).iter_errors(data))


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
