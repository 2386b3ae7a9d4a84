"""Small images in a real registry: one base layer, one engine layer, labels as `publish` writes them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.report import samples
from trt_action.engine import kept
from trt_action.engine.backend import RuntimeOptions
from trt_action.evidence import Evidence, Fingerprint, ShapeRange, Source
from trt_action.publish import attest, labels, layers, oci, provenance, sbom
from trt_action.publish.attest import Attachment
from trt_action.publish.layers import Compression
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.provenance import Origin
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.signing import Signer

COMMIT = "4f2a9c1d7be0aa" + "0" * 26
H100 = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": [9, 0], "driver": "570.10"}
A100 = {"name": "NVIDIA A100-SXM4-80GB", "compute_capability": [8, 0], "driver": "570.10"}


@dataclass(frozen=True)
class Published:
    """An image as it was pushed; `name` is `host/repository`."""

    name: Reference
    descriptor: Descriptor
    evidence: bytes = field(repr=False)
    engine_sha256: str
    labels: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> str:
        return self.descriptor.digest


def measured(
    engine: bytes,
    *,
    commit: str = COMMIT,
    gpu: Mapping[str, Any] | None = None,
    created: str | None = None,
    batch: int = 1,
    **changes: Any,
) -> Evidence:
    """Evidence of a run that measured these engine bytes."""
    shape = ShapeRange(min=[1, 1, 8, 8], opt=[batch, 1, 8, 8], max=[64, 1, 8, 8])
    digest = hashlib.sha256(engine).hexdigest()
    record = samples.engine(sha256=digest, bytes=len(engine), **changes)
    evidence = samples.passed(
        model=samples.model(shapes={"image": shape}),
        head=samples.side(engine=record),
        source=Source(commit=commit, ref="refs/heads/main", repository="https://github.com/team/model"),
    )
    updates: dict[str, Any] = {"created": created or evidence.created}
    if gpu is not None:
        here = samples.fingerprint()
        updates["fingerprint"] = Fingerprint(**{**here.model_dump(), "hardware": {**here.hardware, "gpu": dict(gpu)}})
    return kept.without_series(evidence.model_copy(update=updates))


def version_folder(folder: Path, engine: bytes, evidence: Evidence) -> bytes:
    """What `kept.keep` leaves. Returns the bytes of evidence.json."""
    assert evidence.head
    assert evidence.model
    folder.mkdir(parents=True)
    (folder / "engine.onnx").write_bytes(engine)
    text = evidence.model_dump_json(indent=1).encode() + b"\n"
    (folder / kept.EVIDENCE).write_bytes(text)
    record = kept.Kept(
        engine=evidence.head.engine, model=evidence.model, options=asdict(RuntimeOptions()), files=["engine.onnx"]
    )
    (folder / kept.RECORD).write_text(record.model_dump_json())
    return text


def push(
    registry: Registry,
    repository: str,
    *tags: str,
    engine: bytes | None = None,
    served: bytes | None = None,
    compression: Compression = "none",
    extra: Mapping[str, bytes] | None = None,
    top: Mapping[str, bytes] | None = None,
    docker: bool = False,
    annotated: bool = True,
    labelled: bool = True,
    trailing: bytes = b"",
    **facts: Any,
) -> Published:
    """Push an image.

    Args:
        engine: the bytes that were measured; random ones if None. `served`: what lies in the image instead.
        extra: more files in the engine's folder; `top`: a layer above it, files by absolute path.
        trailing: what follows the end of the engine layer's tar.
        facts: see `measured`.
    """
    engine = engine if engine is not None else os.urandom(40_000)
    evidence = measured(engine, **facts)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        text = version_folder(work / "1", served or engine, evidence)
        for path, content in (extra or {}).items():
            (work / "1" / path).parent.mkdir(exist_ok=True)
            (work / "1" / path).write_bytes(content)
        (work / "base").mkdir()
        (work / "base" / "hello").write_bytes(b"hello\n" * 10)
        blobs = [
            layers.pack(work / "base", "/opt/base", work / "base.tar", compression="gzip"),
            layers.pack(work / "1", "/models/digits/1", work / "engine.tar", compression=compression),
        ]
        if trailing:
            with (work / "engine.tar").open("ab") as file:
                file.write(trailing)
            blobs[1] = Blob.of_file(work / "engine.tar", oci.LAYER)
        if top:
            blobs.append(_top(work, top))
        pointers = [registry.upload(repository, blob) for blob in blobs]
    digest = oci.sha256(text)
    said = labels.labels(evidence, variant="onnxruntime", evidence_digest=digest) if labelled else {}
    config = Blob.of(_config(evidence, blobs, said), oci.DOCKER_CONFIG if docker else oci.CONFIG)
    pointer = registry.upload(repository, config)
    body = oci.manifest(pointer, pointers, annotations=said if annotated else None)
    media_type = oci.MANIFEST
    if docker:
        media_type = oci.DOCKER_MANIFEST
        data = {**json.loads(body), "mediaType": media_type}
        data.pop("annotations", None)
        body = oci.canonical(data)
    pushed = registry.put_manifest(repository, None, body, media_type)
    for tag in tags:
        registry.put_manifest(repository, tag, body, media_type)
    measured_engine = hashlib.sha256(engine).hexdigest()
    image = Reference(registry.host, repository)
    return Published(image, Descriptor(media_type, pushed, len(body)), text, measured_engine, said)


def attached(registry: Registry, image: Published, signer: Signer | None, **changes: Any) -> list[Attachment]:
    """Attach everything, as `publish` does."""
    values: dict[str, Any] = {
        "evidence": image.evidence,
        "bill": sbom.document(attest.parsed(image.evidence), image.name, image.digest, None),
        "origin": Origin(builder=provenance.LOCAL_BUILDER),
        "signer": signer,
    }
    return attest.attach_all(registry, image.name, image.descriptor, **values | changes)


def _config(evidence: Evidence, blobs: list[Blob], said: Mapping[str, str]) -> bytes:
    return oci.canonical(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": evidence.created,
            "config": {"User": "65532", "Labels": dict(said), "Entrypoint": ["/opt/base/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [blob.diff_id for blob in blobs]},
            "history": [{"created_by": "test"} for _ in blobs],
        }
    )


def _top(work: Path, files: Mapping[str, bytes]) -> Blob:
    root = work / "top"
    for path, content in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    (first,) = root.iterdir()
    return layers.pack(first, f"/{first.name}", work / "top.tar")
