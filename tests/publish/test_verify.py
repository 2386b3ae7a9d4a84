"""From the key to the engine's bytes, against a real registry: what was published verifies; every change is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.doubles.registry import PASSWORD, USER, Running
from tests.publish import images
from tests.publish.conftest import LOGIN, MakeRegistry
from tests.publish.images import Published
from trt_action import cli
from trt_action.errors import RegistryError, VerificationError
from trt_action.publish import artifacts, attest, contents, inspect, oci, provenance, sbom, signing, verify
from trt_action.publish.registry import Registry
from trt_action.publish.signing import KeySigner
from trt_action.publish.verify import Verified


@pytest.fixture(scope="module")
def signer() -> KeySigner:
    return KeySigner(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def plain(cncf: Running, make: MakeRegistry) -> Registry:
    return make(cncf.host)


@pytest.fixture
def key_file(signer: KeySigner, tmp_path: Path) -> Path:
    path = tmp_path / "cosign.pub"
    path.write_text(signer.public.pem())
    return path


def checked(registry: Registry, image: Published, signer: KeySigner) -> Verified:
    (found,) = verify.verify(registry, image.name.repository, image.digest, signer.public)
    return found


def failed(found: Verified) -> dict[str, str]:
    return {check.name: check.found for check in found.checks if check.ok is False}


# What was published verifies


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_published_image_verifies(plain: Registry, repository: str, signer: KeySigner, compression: Any) -> None:
    image = images.push(plain, repository, "v", compression=compression)
    images.attached(plain, image, signer)
    found = checked(plain, image, signer)
    assert found.ok, found.checks
    assert found.evidence
    assert found.evidence.head
    assert found.evidence.head.engine.sha256 == image.engine_sha256
    assert [check.name for check in found.checks] == ["digest", "signature", "evidence", "engine", "provenance"]


def test_a_docker_manifest_verifies_too(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository, docker=True)
    images.attached(plain, image, signer)
    assert checked(plain, image, signer).ok


def test_attaching_again_changes_nothing(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository)
    first = images.attached(plain, image, signer)
    before = plain.referrers(repository, image.digest)
    second = images.attached(plain, image, signer)
    assert all(one.new for one in first)
    assert not any(one.new for one in second)
    assert [one.descriptor.digest for one in first] == [one.descriptor.digest for one in second]
    assert plain.referrers(repository, image.digest) == before
    assert len(before) == 5


def test_signatures_lie_where_cosign_looks(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository)
    images.attached(plain, image, signer)
    bundles = plain.referrers(repository, image.digest, signing.BUNDLE)
    assert {one.annotations["dev.sigstore.bundle.predicateType"] for one in bundles} == {
        "https://slsa.dev/provenance/v1",
        "https://sigstore.dev/cosign/sign/v1",
        provenance.BENCHMARK,
    }
    for one in bundles:
        manifest = plain.manifest(repository, one.digest)
        assert manifest
        data = manifest.json()
        assert (data["artifactType"], data["subject"]["digest"]) == (signing.BUNDLE, image.digest)
        assert [layer["mediaType"] for layer in data["layers"]] == [signing.BUNDLE]
    assert len(plain.referrers(repository, image.digest, sbom.MEDIA_TYPE)) == 1


# What nobody vouches for does not


def test_an_unsigned_image_is_refused(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository)
    assert failed(checked(plain, image, signer)) == {"signature": "the image is not signed"}
    images.attached(plain, image, None)
    assert "without a signature" in failed(checked(plain, image, signer))["signature"]


def test_another_key_is_refused(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository)
    images.attached(plain, image, KeySigner(ec.generate_private_key(ec.SECP256R1())))
    found = checked(plain, image, signer)
    assert "none is by this key" in failed(found)["signature"]
    assert [check.ok for check in found.checks] == [True, False, None, None, None]


def test_a_signature_of_another_image_is_refused(plain: Registry, repository: str, signer: KeySigner) -> None:
    """The swapped subject: a sound bundle, moved to an image that it does not speak of."""
    image, other = images.push(plain, repository), images.push(plain, repository)
    images.attached(plain, image, signer)
    for one in artifacts.read(plain, repository, image.digest):
        assert one.content is not None
        plain.attach(
            repository,
            other.descriptor,
            str(one.descriptor.artifact_type),
            [oci.Blob.of(one.content, str(one.descriptor.artifact_type))],
            one.descriptor.annotations,
        )
    assert "none is by this key over this digest" in failed(checked(plain, other, signer))["signature"]


def test_another_engine_than_the_measured_one_is_refused(plain: Registry, repository: str, signer: KeySigner) -> None:
    """Somebody with the key signs evidence for an image whose layer holds something else."""
    image = images.push(plain, repository, engine=b"measured" * 999, served=b"swapped!" * 999)
    images.attached(plain, image, signer)
    assert "is what was measured" in failed(checked(plain, image, signer))["engine"]


@pytest.mark.parametrize(
    "path",
    [
        "/models/digits/1/engine.onnx",
        "/models/digits/1/new",
        "/models/digits/.wh.1",
        "/models/.wh..wh..opq",
        "/models/.wh.digits",
    ],
)
def test_a_layer_over_the_engine_is_refused(plain: Registry, repository: str, signer: KeySigner, path: str) -> None:
    image = images.push(plain, repository, top={path: b"x"})
    images.attached(plain, image, signer)
    assert "afterwards" in failed(checked(plain, image, signer))["engine"]


def test_a_layer_beside_the_engine_is_no_harm(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository, top={"/opt/more": b"x"})
    images.attached(plain, image, signer)
    assert checked(plain, image, signer).ok


@pytest.mark.parametrize("kind", [attest.EVIDENCE, sbom.MEDIA_TYPE])
def test_a_byproduct_that_was_exchanged_is_refused(
    plain: Registry, repository: str, signer: KeySigner, kind: str
) -> None:
    image = images.push(plain, repository)
    other = images.push(plain, repository)
    changes = {"evidence": other.evidence} if kind == attest.EVIDENCE else {"bill": None}
    stranger = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    images.attached(plain, image, stranger, **changes)
    record = attest.parsed(image.evidence)
    names = {"evidence.json": oci.Blob.of(image.evidence, attest.EVIDENCE).descriptor()}
    names["sbom.cdx.json"] = oci.Blob.of(b"{}", sbom.MEDIA_TYPE).descriptor()
    for name, predicate in (
        (provenance.PROVENANCE, provenance.provenance(record, provenance.Origin(), names)),
        (provenance.BENCHMARK, provenance.benchmark(record, names["evidence.json"])),
    ):
        bundle = signer.sign(provenance.statement(image.name, image.digest, name, predicate))
        plain.attach(repository, image.descriptor, signing.BUNDLE, [oci.Blob.of(bundle, signing.BUNDLE)], {})
    found = failed(checked(plain, image, signer))
    assert list(found) == ["evidence" if kind == attest.EVIDENCE else "provenance"]
    assert "attached" in "".join(found.values())


def test_evidence_beside_the_engine_must_be_the_signed_one(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository, annotated=False, docker=True)
    changed = image.evidence + b"\n"
    images.attached(plain, image, signer, evidence=changed)
    assert "label names other evidence" in failed(checked(plain, image, signer))["evidence"]
    silent = images.push(plain, repository, labelled=False)
    images.attached(plain, silent, signer, evidence=silent.evidence + b"\n")
    assert "evidence beside the engine" in failed(checked(plain, silent, signer))["engine"]


def test_a_tar_that_goes_on_behind_its_end_is_refused(plain: Registry, repository: str, signer: KeySigner) -> None:
    """Another reader might take what follows for more files, over the measured ones."""
    image = images.push(plain, repository, trailing=b"\0" * 5_120 + b"more")
    images.attached(plain, image, signer)
    assert "behind the end" in failed(checked(plain, image, signer))["engine"]


def test_two_engines_in_one_image_are_refused(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository, extra={"other/engine.json": b"{}"})
    images.attached(plain, image, signer)
    assert "several engines" in failed(checked(plain, image, signer))["engine"]


def test_an_image_without_engine_is_refused(plain: Registry, repository: str) -> None:
    body = oci.manifest(plain.upload(repository, oci.Blob.of(b"{}", oci.CONFIG)), [])
    plain.put_manifest(repository, "empty", body, oci.MANIFEST)
    fetched = artifacts.resolve(plain, repository, "empty")
    with pytest.raises(VerificationError, match="holds no engine"):
        contents.engine(plain, repository, fetched)


def test_a_broken_artifact_of_somebody_else_keeps_nobody_from_signing_and_verifying(
    plain: Registry, repository: str, signer: KeySigner
) -> None:
    image = images.push(plain, repository)
    for content in (b"", b"{}", b"[" * 10_000, b"\xff" * 100):
        for kind in (signing.BUNDLE, attest.EVIDENCE, sbom.MEDIA_TYPE, signing.STATEMENT):
            annotations = {attest.PREDICATE_TYPE: provenance.BENCHMARK}
            plain.attach(repository, image.descriptor, kind, [oci.Blob.of(content, kind)], annotations)
    images.attached(plain, image, signer)
    assert checked(plain, image, signer).ok
    inspect.table(inspect.inspect(plain, repository, image.digest))


# The commands


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_commands_tell_and_check(
    plain: Registry, repository: str, signer: KeySigner, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = images.push(plain, repository, "v1", gpu=images.H100)
    images.attached(plain, image, signer)
    name = f"{plain.host}/{repository}:v1"
    code, out, _ = run(capsys, "inspect", name)
    assert code == 0
    for told in (
        images.COMMIT,
        "int8",
        "NVIDIA H100 80GB HBM3 9.0",
        "p99",
        image.engine_sha256,
        "improved",
        "provenance",
    ):
        assert told in out
    assert signer.public.hint in out
    code, out, _ = run(capsys, "inspect", "--json", name)
    data = json.loads(out)
    assert (data["digest"], data["evidence"]["source"]["commit"]) == (image.digest, images.COMMIT)
    assert {one["what"] for one in data["attached"]} == {"evidence", "sbom", "provenance", "benchmark", "signature"}
    code, out, _ = run(capsys, "verify", name, "--key", str(key_file))
    assert (code, out.count("\n")) == (0, 5)
    assert "FAILED" not in out
    code, out, _ = run(capsys, "verify", name, "--key", str(key_file), "--json")
    assert [one["verified"] for one in json.loads(out)] == [True]


def test_an_unsigned_image_has_an_exit_code(
    plain: Registry, repository: str, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = images.push(plain, repository, "v1")
    code, out, err = run(capsys, "verify", f"{plain.host}/{repository}:v1", "--key", str(key_file))
    assert code == VerificationError.exit_code
    assert "FAILED  signature   the image is not signed" in out
    assert "do not use" in err
    assert image.digest in out


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_such_image_is_said(
    plain: Registry, repository: str, command: str, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.push(plain, repository, "there")
    more = ["--key", str(key_file)] if command == "verify" else []
    code, _, err = run(capsys, command, f"{plain.host}/{repository}:missing", *more)
    assert code == VerificationError.exit_code
    assert "There is no image" in err


def test_login_and_own_certificates(
    locked: Running, make: MakeRegistry, repository: str, signer: KeySigner, key_file: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry = make(locked.host, credentials=LOGIN, ca=locked.ca)
    image = images.push(registry, repository, "v1")
    images.attached(registry, image, signer)
    monkeypatch.setenv("REGISTRY_PASSWORD", PASSWORD)
    name = f"{locked.host}/{repository}:v1"
    login = ("--username", USER, "--ca", str(locked.ca))
    code, out, err = run(capsys, "verify", name, "--key", str(key_file), *login)
    assert code == 0, out + err
    assert PASSWORD not in out + err
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
    code, _, err = run(capsys, "inspect", name, *login)
    assert code == RegistryError.exit_code
    assert "wrong" not in err


# Hostile content


def test_hostile_labels_and_evidence_reach_no_terminal(
    plain: Registry, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = "\x1b[31m::error::owned\r\n##[group]\u202egnp " + "x" * 5_000
    said = {f"io.github.trt-action.{name}": nasty for name in ("model", "gpu", "precision")}
    config = {"architecture": "amd64", "os": "linux", "created": nasty, "config": {"Labels": said, "User": nasty}}
    pointer = plain.upload(repository, oci.Blob.of(json.dumps(config).encode(), oci.CONFIG))
    body = oci.manifest(pointer, [], annotations={"org.opencontainers.image.revision": nasty})
    plain.put_manifest(repository, "v1", body, oci.MANIFEST)
    subject = artifacts.resolve(plain, repository, "v1").descriptor()
    evidence = json.loads(images.measured(b"x").model_dump_json())
    evidence["source"]["commit"] = nasty[:900]
    evidence["unknown"] = nasty
    for text in (evidence, {**evidence, "model": None}):
        plain.attach(
            repository, subject, attest.EVIDENCE, [oci.Blob.of(json.dumps(text).encode(), attest.EVIDENCE)], {}
        )
    plain.attach(repository, subject, "x/" + "y" * 900, [oci.Blob.of(b"?", "x/y")], {})
    code, out, err = run(capsys, "inspect", f"{plain.host}/{repository}:v1")
    assert code == 0, err
    assert max(len(line) for line in out.splitlines()) < 400
    for sign in ("\x1b", "\r", "::error", "##[", "\u202e"):
        assert sign not in out + err
    assert "not valid" in out
    code, out, _ = run(capsys, "inspect", "--json", f"{plain.host}/{repository}:v1")
    assert len(json.loads(out)["labels"]["io.github.trt-action.model"]) == inspect.MAX_TEXT
