"""What an image says about itself: `org.opencontainers.image.*`, and what was measured. Pure.

Keys: https://github.com/opencontainers/image-spec/blob/main/annotations.md. The same pairs are the labels of the config,
where the daemon and Kubernetes read them, and the annotations of the manifest, where a registry does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_action.evidence import Evidence
from trt_action.publish import tags
from trt_action.publish.reference import Reference

OCI = "org.opencontainers.image."
OWN = "io.github.trt-action."

MODEL = f"{OWN}model"
MODEL_SHA256 = f"{OWN}model.sha256"
PRECISION = f"{OWN}precision"
BACKEND = f"{OWN}backend"
BACKEND_VERSION = f"{OWN}backend.version"
ENGINE_SHA256 = f"{OWN}engine.sha256"
GPU = f"{OWN}gpu"
COMPUTE_CAPABILITY = f"{OWN}gpu.compute-capability"
DRIVER = f"{OWN}gpu.driver"
P50_MS = f"{OWN}p50-ms"
P99_MS = f"{OWN}p99-ms"
ACCURACY = f"{OWN}accuracy"
METRIC = f"{OWN}accuracy.metric"
OUTCOME = f"{OWN}outcome"
EVIDENCE = f"{OWN}evidence"
"""Digest of `evidence.json` in the image's version folder: `sha256:…`."""
VARIANT = f"{OWN}variant"
RUNTIME = f"{OWN}runtime"
"""Of a runtime base, an image without engine: the digest of what it is built from."""
TOOL = f"{OWN}version"

MAX_VALUE = 1_000


@dataclass(frozen=True)
class Gpu:
    """The GPU that was measured on; empty texts where the evidence does not say."""

    name: str
    compute_capability: str
    driver: str


def gpu(evidence: Evidence) -> Gpu | None:
    """The GPU in the evidence; None if the engine was measured on a CPU."""
    found: Any = evidence.fingerprint.hardware.get("gpu") if evidence.fingerprint else None
    first = found[0] if isinstance(found, Sequence) and not isinstance(found, str) and found else found
    if first and isinstance(first, str):
        return Gpu(first, "", "")
    if not isinstance(first, Mapping) or not first.get("name"):
        return None
    driver = first.get("driver") or (evidence.fingerprint.software.get("driver") if evidence.fingerprint else None)
    return Gpu(
        str(first["name"]), _capability(first.get("capability") or first.get("compute_capability")), str(driver or "")
    )


def facts(evidence: Evidence, **known: Any) -> tags.Facts:
    """What tags are made of: the evidence's part, and what the event knows (`branch`, `tag`, …)."""
    head, here = evidence.head, gpu(evidence)
    return tags.Facts(
        **{
            "commit": evidence.source.commit or "",
            "model": model_name(evidence),
            "gpu": tags.gpu_word(here.name if here else None),
            "precision": head.engine.precision if head else "",
            "backend": head.engine.backend if head else "",
            **known,
        }
    )


def model_name(evidence: Evidence) -> str:
    """The name that the model is served and tagged under: what a person calls it, made fit for an address."""
    asked = str(evidence.settings.get("name") or "") or (evidence.model.name if evidence.model else "")
    return tags.sanitized(asked).strip("_.-") or "model"


def labels(
    evidence: Evidence,
    *,
    variant: str,
    evidence_digest: str,
    base: Reference | None = None,
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Everything that is known, sorted by key; what is not known is not there.

    Args:
        variant: of the runtime image, e.g. `onnxruntime`.
        evidence_digest: of the evidence that lies in the image.
        base: what the image was built on, with its digest.
        given: the user's own labels; they win.
    """
    source, head = evidence.source, evidence.head
    latency = head.latency if head else None
    task, here = evidence.accuracy.task, gpu(evidence)
    known: dict[str, str | None] = {
        f"{OCI}title": model_name(evidence),
        f"{OCI}description": _description(evidence, here),
        f"{OCI}source": source.repository,
        f"{OCI}url": source.run_url or source.repository,
        f"{OCI}revision": source.commit,
        f"{OCI}version": source.commit[:12] if source.commit else None,
        f"{OCI}ref.name": source.ref,
        f"{OCI}created": evidence.created,
        f"{OCI}base.name": f"{base.name}:{base.tag}" if base and base.tag else base.name if base else None,
        f"{OCI}base.digest": base.digest if base else None,
        TOOL: evidence.tool.version,
        VARIANT: variant,
        MODEL: model_name(evidence),
        MODEL_SHA256: evidence.model.sha256 if evidence.model else None,
        PRECISION: head.engine.precision if head else None,
        BACKEND: head.engine.backend if head else None,
        BACKEND_VERSION: head.engine.backend_version if head else None,
        ENGINE_SHA256: head.engine.sha256 if head else None,
        GPU: here.name if here else None,
        COMPUTE_CAPABILITY: here.compute_capability if here else None,
        DRIVER: here.driver if here else None,
        P50_MS: f"{latency.p50_ms:.6g}" if latency else None,
        P99_MS: f"{latency.p99_ms:.6g}" if latency else None,
        ACCURACY: f"{task.head.estimate:.6g}" if task else None,
        METRIC: task.metric if task else None,
        OUTCOME: evidence.outcome,
        EVIDENCE: evidence_digest,
    }
    found = {key: _clean(value) for key, value in known.items() if value} | dict(given or {})
    return dict(sorted(found.items()))


def _description(evidence: Evidence, here: Gpu | None) -> str:
    head = evidence.head
    if head is None:
        return "An engine made by trt-action"
    where = here.name if here else "CPU"
    return f"{model_name(evidence)}: {head.engine.precision} engine for {head.engine.backend}, measured on {where}"


def _capability(value: object) -> str:
    """`[9, 0]` or `9.0` → `9.0`."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ".".join(str(part) for part in value)
    return str(value or "")


def _clean(text: str) -> str:
    """One printable line: a label goes through shells and tables of other tools."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_VALUE]
