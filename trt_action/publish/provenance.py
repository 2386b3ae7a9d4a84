"""What is said about an image, to be signed: in-toto statements v1 about its digest.

SLSA provenance v1: https://slsa.dev/spec/v1.0/provenance. The benchmark predicate is this product's own
(docs/supply-chain.md). The same evidence gives the same bytes, so that a rerun finds what is already attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from trt_action.evidence import Engine, Evidence, Side
from trt_action.publish import oci
from trt_action.publish.oci import Descriptor
from trt_action.publish.reference import Reference
from trt_action.publish.signing import IMAGE_SIGNATURE, STATEMENT_TYPE

PROVENANCE = "https://slsa.dev/provenance/v1"
BENCHMARK = "urn:trt-action:benchmark:v1"
BUILD_TYPE = "urn:trt-action:build:v1"
LOCAL_BUILDER = "urn:trt-action:builder:local"
"""Who built it where nobody says: a person's own machine."""


@dataclass(frozen=True)
class Origin:
    """What evidence does not know of the build.

    `builder`: the URI of who ran it, e.g. the workflow's; `base_image`: what the image was built on, with its digest.
    """

    builder: str = LOCAL_BUILDER
    base_image: Reference | None = None


def statement(image: Reference, digest: str, predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """A statement about the image `digest`. `image` gives the name alone."""
    algorithm, _, value = digest.partition(":")
    return oci.canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": image.name, "digest": {algorithm: value}}],
            "predicateType": predicate_type,
            "predicate": dict(predicate),
        }
    )


def image_signature(image: Reference, digest: str) -> bytes:
    """The statement that cosign 3 takes for the signature of an image: the digest alone."""
    return statement(image, digest, IMAGE_SIGNATURE, {})


def benchmark(evidence: Evidence, attached: Descriptor) -> dict[str, Any]:
    """The numbers that people ask for, and the digest of the evidence that holds them all.

    Args:
        attached: the evidence as it is attached to the image.
    """
    head = evidence.head
    return _without_none(
        {
            "evidence": {
                "digest": _digest_set(attached.digest),
                "mediaType": attached.media_type,
                "size": attached.size,
            },
            "tool": evidence.tool.version,
            "created": evidence.created,
            "outcome": evidence.outcome,
            "commit": evidence.source.commit,
            "model": _model(evidence),
            "engine": _engine(head.engine) if head else None,
            "gpu": evidence.fingerprint.hardware.get("gpu") if evidence.fingerprint else None,
            "fingerprint": evidence.fingerprint.digest if evidence.fingerprint else None,
            "latency": _latency(head) if head else None,
            "comparison": _comparison(evidence),
            "accuracy": _accuracy(evidence),
            "gates": [{"name": gate.name, "rule": gate.rule, "status": gate.status} for gate in evidence.gates],
        }
    )


def provenance(evidence: Evidence, origin: Origin, byproducts: Mapping[str, Descriptor]) -> dict[str, Any]:
    """How the image came to be: who ran it, with which settings, from what.

    Args:
        byproducts: what is attached beside it, by name; its digests are signed with this.
    """
    source = evidence.source
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"settings": dict(evidence.settings)},
            "internalParameters": _without_none(
                {"fingerprint": evidence.fingerprint.digest if evidence.fingerprint else None}
            ),
            "resolvedDependencies": dependencies(evidence, origin),
        },
        "runDetails": {
            "builder": {
                "id": origin.builder,
                "version": _without_none(
                    {
                        "trt-action": evidence.tool.version,
                        evidence.head.engine.backend if evidence.head else "": (
                            evidence.head.engine.backend_version if evidence.head else None
                        ),
                    }
                ),
            },
            "metadata": _without_none({"invocationId": source.run_url, **_times(evidence)}),
            "byproducts": [
                {"name": name, "digest": _digest_set(one.digest), "mediaType": one.media_type}
                for name, one in sorted(byproducts.items())
            ],
        },
    }


def dependencies(evidence: Evidence, origin: Origin) -> list[dict[str, Any]]:
    """Source commit, model, data and base image, each with its digest."""
    found: list[dict[str, Any]] = []
    source = evidence.source
    if source.commit:
        name = source.repository or "source"
        found.append(
            {
                "name": "source",
                "uri": f"git+{name}@{source.ref}" if source.ref else f"git+{name}",
                "digest": {"gitCommit": source.commit},
                "annotations": _without_none(
                    {"measuredCommit": source.measured_commit, "uncommittedChanges": source.dirty or None}
                ),
            }
        )
    if evidence.model:
        found.append(
            {
                "name": "model",
                "uri": f"file:{evidence.model.path}",
                "digest": {"sha256": evidence.model.sha256},
                "annotations": {"definition": "docs/evidence.md#modelsha256"},
            }
        )
    found += [{"name": name, "digest": {"sha256": digest}} for name, digest in datasets(evidence).items()]
    if origin.base_image and origin.base_image.digest:
        found.append(
            {
                "name": "base image",
                "uri": f"docker://{origin.base_image}",
                "digest": _digest_set(origin.base_image.digest),
            }
        )
    return [{key: value for key, value in one.items() if value} for one in found]


def datasets(evidence: Evidence) -> dict[str, str]:
    """The data that were used: what for → SHA-256 (docs/evidence.md says over what)."""
    found = {}
    if evidence.head and evidence.head.engine.calibration_sha256:
        found["calibration data"] = evidence.head.engine.calibration_sha256
    if evidence.accuracy.parity and evidence.accuracy.parity.data_sha256:
        found[f"parity data ({evidence.accuracy.parity.data})"] = evidence.accuracy.parity.data_sha256
    if evidence.accuracy.task:
        found["validation data"] = evidence.accuracy.task.data_sha256
    return found


def _times(evidence: Evidence) -> dict[str, str]:
    """`created` is when the evidence was complete; the stages say how long it took."""
    try:
        end = datetime.fromisoformat(evidence.created)
    except ValueError:
        return {}
    start = end - timedelta(seconds=round(sum(stage.seconds for stage in evidence.stages)))
    return {"startedOn": start.isoformat(timespec="seconds"), "finishedOn": end.isoformat(timespec="seconds")}


def _model(evidence: Evidence) -> dict[str, Any] | None:
    return {"name": evidence.model.name, "sha256": evidence.model.sha256} if evidence.model else None


def _engine(engine: Engine) -> dict[str, Any]:
    return {
        "sha256": engine.sha256,
        "bytes": engine.bytes,
        "backend": engine.backend,
        "backendVersion": engine.backend_version,
        "precision": engine.precision,
        "weightShare": engine.achieved_precision.weight_share,
    }


def _latency(side: Side) -> dict[str, Any] | None:
    one = side.latency
    if one is None:
        return None
    return {"n": one.n, "p50_ms": one.p50_ms, "p90_ms": one.p90_ms, "p95_ms": one.p95_ms, "p99_ms": one.p99_ms}


def _comparison(evidence: Evidence) -> dict[str, Any] | None:
    one = evidence.comparison
    if one is None:
        return None
    ratio = one.p50_ratio.model_dump() if one.p50_ratio else None
    return _without_none({"verdict": one.verdict, "p50_ratio": ratio, "pairs": one.pairs})


def _accuracy(evidence: Evidence) -> dict[str, Any] | None:
    task = evidence.accuracy.task
    if task is None:
        return None
    return _without_none(
        {
            "metric": task.metric,
            "samples": task.samples,
            "head": task.head.estimate,
            "reference": task.reference.estimate if task.reference else None,
        }
    )


def _digest_set(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def _without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
