"""What of a run's evidence MLflow shows: name, parameters, metrics and tags. Pure; everything fits MLflow's limits."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from trt_action.engine.kept import without_series
from trt_action.evidence import Estimate, Evidence, Latency, Side
from trt_action.llm_records import LlmLevel
from trt_action.publish import labels

T = TypeVar("T")

PREFIX = "trt-action."
EVIDENCE_TAG = f"{PREFIX}evidence-sha256"
"""Of `evidence.json` without its series, as an image carries it: what a run is found again by."""

MAX_PARAMETER = 500
"""Bytes. Servers before 1.28 and Databricks take no more; MLflow 3 takes 6,000. The whole value is in evidence.json."""
MAX_TAG = 4_000
"""Bytes; MLflow takes 8,000 characters, before 2.11 it took 5,000."""
MAX_KEY = 200
"""Characters; MLflow takes 250."""
MAX_NAME = 200
MAX_OUTPUTS = 20
"""Outputs of the model whose parity becomes a metric."""

_STRANGE = re.compile(r"[^A-Za-z0-9_. -]")
"""Signs that not every version of MLflow takes in a key."""

PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Content:
    """One run. `metrics` are finite; `start` and `end` are milliseconds since 1970, UTC."""

    name: str
    sha256: str
    status: str
    start: int
    end: int
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def of(evidence: Evidence, image: str | None = None) -> Content:
    """What of this evidence is recorded.

    Args:
        image: `host/repository@sha256:…` of what was published.
    """
    end = _milliseconds(evidence.created)
    return Content(
        name=_name(evidence),
        sha256=sha256(evidence),
        status="FAILED" if evidence.error else "FINISHED",
        start=end - round(1000 * min(sum(stage.seconds for stage in evidence.stages), 1e6)),
        end=end,
        parameters=_keyed({name: cut(_text(value), MAX_PARAMETER) for name, value in _settings(evidence)}),
        metrics=_keyed(
            {name: value for name, value in _metrics(evidence) if value is not None and math.isfinite(value)}
        ),
        tags={name: cut(_line(value), MAX_TAG) for name, value in _tags(evidence, image) if value},
    )


def sha256(evidence: Evidence) -> str:
    """Of the bytes that lie in an image as its evidence (`engine.kept.write_evidence`)."""
    return hashlib.sha256(f"{without_series(evidence).model_dump_json(indent=1)}\n".encode()).hexdigest()


def key(name: str) -> str:
    """A name that MLflow takes: foreign signs become `_`. One that had to be changed ends in a part of its hash, so that
    two names never become one key."""
    plain = _STRANGE.sub("_", name)
    if plain == name and len(name) <= MAX_KEY:
        return name
    return f"{plain[: MAX_KEY - 9]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8; what was cut ends in `…`."""
    content = text.encode("utf-8", "replace")
    if len(content) <= limit:
        return content.decode()
    return content[: limit - 3].decode("utf-8", "ignore") + "…"


def _name(evidence: Evidence) -> str:
    commit = (evidence.source.commit or "")[:12]
    return cut(_line(f"{_called(evidence)} {commit}".strip()), MAX_NAME)


def _called(evidence: Evidence) -> str:
    """What a person calls the model."""
    asked = str(evidence.settings.get("name") or "")
    if asked or evidence.model:
        return asked or (evidence.model.name if evidence.model else "")
    return evidence.llm.head.model if evidence.llm else "trt-action"


def _settings(evidence: Evidence) -> Iterator[tuple[str, Any]]:
    for name, value in evidence.settings.items():
        if value not in (None, [], ""):
            yield name, value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _line(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, bool | list | dict) else str(value)


def _line(text: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text))


def _metrics(evidence: Evidence) -> Iterator[tuple[str, float | int | None]]:
    if evidence.head:
        yield from _side("", evidence.head)
    if evidence.base and evidence.base.latency:
        yield from _latency("base.", evidence.base.latency)
    yield from _differences(evidence)
    yield from _accuracy(evidence)
    for level in evidence.llm.head.levels if evidence.llm else []:
        yield from _level(level)
    yield "wall_seconds", sum(stage.seconds for stage in evidence.stages) if evidence.stages else None


def _side(prefix: str, side: Side) -> Iterator[tuple[str, float | int | None]]:
    if side.latency:
        yield from _latency(prefix, side.latency)
    if side.throughput:
        yield f"{prefix}throughput_per_second", side.throughput.samples_per_second
    if side.memory:
        yield f"{prefix}host_peak_bytes", side.memory.host_peak_bytes
        yield f"{prefix}device_peak_bytes", side.memory.device_peak_bytes
    if side.cold_start:
        yield f"{prefix}load_ms", side.cold_start.load_ms
        yield f"{prefix}first_inference_ms", side.cold_start.first_inference_ms
    engine = side.engine
    yield f"{prefix}engine_bytes", engine.bytes
    yield f"{prefix}build_seconds", engine.build_seconds
    yield f"{prefix}precision_share_weights", engine.achieved_precision.weight_share
    yield f"{prefix}precision_share_flops", engine.achieved_precision.flop_share


def _latency(prefix: str, latency: Latency) -> Iterator[tuple[str, float | None]]:
    yield f"{prefix}mean_ms", latency.mean_ms
    for name in PERCENTILES:
        yield f"{prefix}{name}_ms", getattr(latency, f"{name}_ms")
    for name, interval in latency.intervals.items():
        yield f"{prefix}{name}_ms.low", interval.low_ms if interval else None
        yield f"{prefix}{name}_ms.high", interval.high_ms if interval else None


def _differences(evidence: Evidence) -> Iterator[tuple[str, float | None]]:
    if comparison := evidence.comparison:
        yield from _estimate("p50_ratio", comparison.p50_ratio)
        yield from _estimate("p99_ratio", comparison.p99_ratio)
        yield from _estimate("noise_floor", comparison.noise_floor)
    if evidence.speedup:
        yield from _estimate("speedup", evidence.speedup.ratio)


def _accuracy(evidence: Evidence) -> Iterator[tuple[str, float | None]]:
    if task := evidence.accuracy.task:
        yield from _estimate("accuracy", task.head)
        yield from _estimate("accuracy_base", task.base)
        yield from _estimate("accuracy_reference", task.reference)
        yield from _estimate("accuracy_drop", task.drop)
    if parity := evidence.accuracy.parity:
        for name, output in list(parity.head.items())[:MAX_OUTPUTS]:
            yield f"parity.{name}.relative_l2", output.relative_l2
            yield f"parity.{name}.max_abs", output.max_abs
            yield f"parity.{name}.cosine", output.cosine
            yield f"parity.{name}.top1_agreement", output.top1_agreement


def _level(level: LlmLevel) -> Iterator[tuple[str, float | int | None]]:
    at = f"at_{level.concurrency}"
    yield f"output_tokens_per_second.{at}", level.output_tokens_per_second
    yield f"requests_per_second.{at}", level.requests_per_second
    yield f"failed_requests.{at}", sum(level.failed.values())
    for name in ("ttft", "itl", "tpot", "e2e"):
        if times := getattr(level, name):
            for percentile in PERCENTILES:
                yield f"{name}_{percentile}_ms.{at}", getattr(times, f"{percentile}_ms")


def _estimate(name: str, found: Estimate | None) -> Iterator[tuple[str, float | None]]:
    if found:
        yield name, found.estimate
        yield f"{name}.low", found.low
        yield f"{name}.high", found.high


def _tags(evidence: Evidence, image: str | None) -> Iterator[tuple[str, str | None]]:
    source, head, here = evidence.source, evidence.head, labels.gpu(evidence)
    yield EVIDENCE_TAG, sha256(evidence)
    yield f"{PREFIX}outcome", evidence.outcome
    yield f"{PREFIX}verdict", evidence.comparison.verdict if evidence.comparison else None
    yield f"{PREFIX}error", evidence.error.title if evidence.error else None
    yield f"{PREFIX}commit", source.commit
    yield f"{PREFIX}ref", source.ref
    yield f"{PREFIX}repository", source.repository
    yield f"{PREFIX}run-url", source.run_url
    yield f"{PREFIX}version", evidence.tool.version
    yield f"{PREFIX}model", _called(evidence)
    yield f"{PREFIX}model-sha256", evidence.model.sha256 if evidence.model else None
    yield f"{PREFIX}gpu", here.name if here else None
    yield f"{PREFIX}fingerprint", evidence.fingerprint.digest if evidence.fingerprint else None
    yield f"{PREFIX}image", image
    if head:
        yield f"{PREFIX}precision", head.engine.precision
        yield f"{PREFIX}backend", f"{head.engine.backend} {head.engine.backend_version}"
        yield f"{PREFIX}engine-sha256", head.engine.sha256
    # what MLflow's own pages show as the run's source
    yield "mlflow.source.name", source.repository
    yield "mlflow.source.type", "JOB" if source.run_url else "LOCAL"
    yield "mlflow.source.git.commit", source.commit
    yield "mlflow.source.git.repoURL", source.repository


def _keyed(found: Mapping[str, T]) -> dict[str, T]:
    return {key(name): value for name, value in found.items()}


def _milliseconds(created: str) -> int:
    """0 of a text that is no time."""
    try:
        found = datetime.fromisoformat(created.strip()[:40])
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return max(0, round(found.timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0
