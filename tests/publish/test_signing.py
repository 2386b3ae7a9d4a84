"""Bundles verify with sigstore's own verifier and with ours; tampered ones, other keys and swapped subjects do not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from nacl.secret import SecretBox
from pydantic import SecretStr

from tests.doubles import sigstore
from tests.report import samples
from trt_action import http
from trt_action.errors import SettingsError, VerificationError
from trt_action.publish import keyless, provenance, signing
from trt_action.publish.oci import Descriptor
from trt_action.publish.reference import Reference
from trt_action.publish.signing import KeySigner, PublicKey

IMAGE = Reference.parse("registry.invalid/team/model")
DIGEST = "sha256:" + "ab" * 32
VERIFIER = Path(__file__).parents[1] / "sigstore"
ATTACHED = Descriptor("application/vnd.trt-action.evidence.v1+json", "sha256:" + "cd" * 32, 4_711)
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
SECRET = "correct horse"  # noqa: S105 - of the tests


def statement() -> bytes:
    return provenance.statement(IMAGE, DIGEST, provenance.BENCHMARK, provenance.benchmark(samples.passed(), ATTACHED))


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def signer(key: ec.EllipticCurvePrivateKey) -> KeySigner:
    return KeySigner(key)


@pytest.fixture
def verifier(tmp_path: Path) -> Callable[[bytes, dict[str, Any]], dict[str, Any]]:
    """npm `@sigstore/verify`, on a bundle and what is trusted."""
    if not (VERIFIER / "node_modules").is_dir():
        pytest.skip("@sigstore/verify is not installed (`npm ci --prefix tests/sigstore`)")

    def verify(bundle: bytes, trust: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "bundle.json").write_bytes(bundle)
        (tmp_path / "trust.json").write_text(json.dumps(trust))
        command = ["node", *map(str, (VERIFIER / "verify.mjs", tmp_path / "bundle.json", tmp_path / "trust.json"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert (done.returncode == 0) is found["ok"]
        return found

    return verify


def trusted(public: PublicKey, hint: str | None = None) -> dict[str, Any]:
    return {"keys": {hint or public.hint: base64.b64encode(public.der).decode()}, "authorities": [], "logs": []}


def changed(bundle: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    data = json.loads(bundle)
    change(data)
    return json.dumps(data).encode()


def swap_subject(data: dict[str, Any]) -> None:
    payload = json.loads(base64.b64decode(data["dsseEnvelope"]["payload"]))
    payload["subject"][0]["digest"]["sha256"] = "ef" * 32
    data["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


def swap_type(data: dict[str, Any]) -> None:
    data["dsseEnvelope"]["payloadType"] = "text/plain"


def flip_signature(data: dict[str, Any]) -> None:
    raw = bytearray(base64.b64decode(data["dsseEnvelope"]["signatures"][0]["sig"]))
    raw[-1] ^= 1
    data["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(raw).decode()


def test_sigstores_own_verifier_accepts_what_the_key_signed(signer: KeySigner, verifier: Any) -> None:
    found = verifier(signer.sign(statement()), trusted(signer.public))
    assert found["ok"], found
    assert found["payload"]["subject"] == [{"name": IMAGE.name, "digest": {"sha256": "ab" * 32}}]
    assert found["payload"]["predicate"]["evidence"]["digest"] == {"sha256": "cd" * 32}


CHANGES = [swap_subject, swap_type, flip_signature]


@pytest.mark.parametrize("change", CHANGES)
def test_a_tampered_bundle_is_refused(signer: KeySigner, change: Callable[[dict[str, Any]], None]) -> None:
    bundle = signer.sign(statement())
    assert signing.verify(bundle, signer.public)["predicateType"] == provenance.BENCHMARK
    with pytest.raises(VerificationError):
        signing.verify(changed(bundle, change), signer.public)
    assert not signer.made(changed(bundle, change))


def test_another_key_is_refused(signer: KeySigner) -> None:
    other = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(VerificationError):
        signing.verify(other.sign(statement()), signer.public)


@pytest.mark.parametrize("change", CHANGES)
def test_sigstores_own_verifier_refuses_a_tampered_bundle(signer: KeySigner, verifier: Any, change: Any) -> None:
    assert not verifier(changed(signer.sign(statement()), change), trusted(signer.public))["ok"]


def test_sigstores_own_verifier_refuses_another_key(signer: KeySigner, verifier: Any) -> None:
    other = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    assert not verifier(other.sign(statement()), trusted(signer.public, hint=other.public.hint))["ok"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 200_000,
        b'{"mediaType": 1, "dsseEnvelope": {}, "verificationMaterial": {}}',
        b'{"dsseEnvelope": {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}}',
    ],
)
def test_what_is_no_bundle_is_said_to_be_none(signer: KeySigner, raw: bytes) -> None:
    with pytest.raises(VerificationError):
        signing.verify(raw, signer.public)


def test_two_signatures_are_not_one(signer: KeySigner) -> None:
    def twice(data: dict[str, Any]) -> None:
        data["dsseEnvelope"]["signatures"] *= 2

    with pytest.raises(VerificationError):
        signing.verify(changed(signer.sign(statement()), twice), signer.public)


def test_a_signed_text_that_is_no_statement_is_refused(signer: KeySigner) -> None:
    for text in (b"hello", b"[]", b'{"_type": "https://in-toto.io/Statement/v0.1"}'):
        with pytest.raises(VerificationError):
            signing.verify(signer.sign(text), signer.public)


# Keys


def cosign_form(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> str:
    """As cosign's source describes its key file; cosign itself is not here to write one."""
    salt, nonce = os.urandom(32), os.urandom(24)
    secret = hashlib.scrypt(passphrase, salt=salt, n=65_536, r=8, p=1, maxmem=256 << 20, dklen=32)
    der = key.private_bytes(serialization.Encoding.DER, PKCS8, serialization.NoEncryption())
    sealed = SecretBox(secret).encrypt(der, nonce).ciphertext
    b64 = {name: base64.b64encode(one).decode() for name, one in (("s", salt), ("n", nonce), ("c", sealed))}
    box = {
        "kdf": {"name": "scrypt", "params": {"N": 65_536, "r": 8, "p": 1}, "salt": b64["s"]},
        "cipher": {"name": "nacl/secretbox", "nonce": b64["n"]},
        "ciphertext": b64["c"],
    }
    body = base64.b64encode(json.dumps(box).encode()).decode()
    head = "ENCRYPTED SIGSTORE PRIVATE KEY"
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {head}-----", *lines, f"-----END {head}-----"]) + "\n"


FORMS: dict[str, tuple[Callable[[ec.EllipticCurvePrivateKey], str], bool]] = {
    "pkcs8": (lambda key: key.private_bytes(PEM, PKCS8, serialization.NoEncryption()).decode(), False),
    "sec1": (
        lambda key: key.private_bytes(
            PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ).decode(),
        False,
    ),
    "encrypted": (
        lambda key: key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(SECRET.encode())).decode(),
        True,
    ),
    "cosign": (lambda key: cosign_form(key, SECRET.encode()), True),
}


@pytest.mark.parametrize("form", FORMS)
def test_keys_are_read_as_people_have_them(key: ec.EllipticCurvePrivateKey, form: str) -> None:
    write, encrypted = FORMS[form]
    pem = SecretStr(write(key))
    passphrase = SecretStr(SECRET) if encrypted else None
    assert KeySigner.from_pem(pem, passphrase).public.der == KeySigner(key).public.der
    wrong = SecretStr("wrong battery")
    with pytest.raises(SettingsError) as refused:
        KeySigner.from_pem(pem, wrong)
    told = f"{refused.value.what} {refused.value.why} {refused.value.fix} {refused.value!r}"
    assert "wrong battery" not in told
    assert pem.get_secret_value().splitlines()[1] not in told
    if encrypted:
        with pytest.raises(SettingsError) as missing:
            KeySigner.from_pem(pem, None)
        assert "passphrase" in missing.value.what
        assert "SIGN_KEY_PASSWORD" in missing.value.fix


@pytest.mark.parametrize("kind", ["p384", "ed25519", "public", "text", "empty"])
def test_other_keys_are_refused(kind: str) -> None:
    p384 = ec.generate_private_key(ec.SECP384R1())
    none = serialization.NoEncryption()
    text = {
        "p384": p384.private_bytes(PEM, PKCS8, none).decode(),
        "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, none).decode(),
        "public": KeySigner(ec.generate_private_key(ec.SECP256R1())).public.pem(),
        "text": "my key is 12345",
        "empty": "",
    }[kind]
    with pytest.raises(SettingsError):
        KeySigner.from_pem(SecretStr(text))


def test_a_private_key_is_no_key_to_verify_with(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(SettingsError) as refused:
        PublicKey.from_pem(FORMS["pkcs8"][0](key).encode())
    assert "public" in refused.value.fix
    assert PublicKey.from_pem(KeySigner(key).public.pem().encode()).fingerprint == KeySigner(key).public.fingerprint


def test_the_fingerprint_is_what_openssl_prints(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(KeySigner(key).public.pem())
    command = ["openssl", "pkey", "-pubin", "-in", str(tmp_path / "key.pub"), "-outform", "DER"]
    der = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    assert KeySigner(key).public.fingerprint == f"sha256:{hashlib.sha256(der).hexdigest()}"


def test_a_key_is_in_no_repr(key: ec.EllipticCurvePrivateKey) -> None:
    number = key.private_numbers().private_value
    shown = repr(KeySigner(key)) + str(KeySigner(key)) + repr(vars(KeySigner(key)))
    assert str(number) not in shown
    assert f"{number:x}" not in shown


# Keyless


@pytest.fixture
def services() -> Iterator[sigstore.Sigstore]:
    with sigstore.serve() as running:
        yield running


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        yield one


def quick(log: list[str] | None = None) -> http.Patience:
    return http.Patience(seconds=60, attempts=3, sleep=lambda _: None, log=(log if log is not None else []).append)


def runner(services: sigstore.Sigstore) -> dict[str, str]:
    return {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{services.url}/token?api-version=2",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": sigstore.RUNNER_SECRET,
    }


def keyless_signer(services: sigstore.Sigstore, session: requests.Session) -> keyless.KeylessSigner:
    token = keyless.identity_token(session, runner(services), quick())
    assert token is not None
    return keyless.KeylessSigner(session, token, fulcio=services.url, rekor=services.url, patience=quick())


def test_keyless_bundles_verify_with_certificate_and_log(
    services: sigstore.Sigstore, session: requests.Session, verifier: Any
) -> None:
    signer = keyless_signer(services, session)
    for _ in range(3):  # a log of one entry has no path to prove
        bundle = signer.sign(statement())
    found = verifier(bundle, services.trust())
    assert found["ok"], found
    assert found["identity"]["subjectAlternativeName"] == sigstore.WORKFLOW
    material = signing.read(bundle).material
    assert keyless.signed_by(material) == {"subject": sigstore.WORKFLOW, "issuer": sigstore.ISSUER}
    for change in (swap_subject, flip_signature):
        assert not verifier(changed(bundle, change), services.trust())["ok"]
    with sigstore.serve() as stranger:
        assert not verifier(bundle, stranger.trust())["ok"]


def test_without_a_token_there_is_no_keyless_signature(session: requests.Session) -> None:
    assert keyless.identity_token(session, {}, quick()) is None
    given = keyless.identity_token(session, {"SIGSTORE_ID_TOKEN": "a.b.c"}, quick())
    assert given is not None
    with pytest.raises(SettingsError):
        keyless.KeylessSigner(session, given)


def test_a_busy_service_is_asked_again(services: sigstore.Sigstore, session: requests.Session) -> None:
    signer = keyless_signer(services, session)
    services.refuse += [["/api/v2/signingCert", 503, 2], ["/api/v1/log/entries", 429, 1]]
    assert signing.read(signer.sign(statement())).statement == statement()


@pytest.mark.parametrize("path", ["/api/v2/signingCert", "/api/v1/log/entries"])
def test_a_refusal_ends_it_without_the_token_in_the_words(
    services: sigstore.Sigstore, session: requests.Session, path: str
) -> None:
    signer = keyless_signer(services, session)
    services.refuse.append([path, 400, 9])
    with pytest.raises(SettingsError) as refused:
        signer.sign(statement())
    told = f"{refused.value.what} {refused.value.why} {refused.value.fix}"
    assert "HTTP 400" in told
    assert "::error" not in told
    assert "eyJ" not in told + repr(signer)


def test_a_certificate_for_another_key_is_refused(services: sigstore.Sigstore, session: requests.Session) -> None:
    services.other_key = True
    with pytest.raises(VerificationError):
        keyless_signer(services, session).sign(statement())


def test_an_unreachable_service_is_a_clear_failure(session: requests.Session) -> None:
    token = SecretStr(sigstore.token({"sub": "x", "aud": "sigstore"}))
    signer = keyless.KeylessSigner(session, token, fulcio="http://127.0.0.1:9", patience=quick())
    with pytest.raises(SettingsError) as refused:
        signer.sign(statement())
    assert "sign-key" in refused.value.fix
