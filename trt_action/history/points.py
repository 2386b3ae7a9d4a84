"""One run as a point of a trend: what of its evidence is drawn, and under which conditions it was measured."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from trt_action.evidence import Evidence, Latency, ModelInfo
from trt_action.publish import labels

Name = Literal["p50", "p99", "throughput", "accuracy", "engine"]

MAX_TEXT = 200
MAX_CONDITIONS = 100
MOST = 1e15
"""From here on a number (of forged evidence) is none."""


@dataclass(frozen=True)
class Metric:
    """One kind of number.

    Args:
        better: which way is better.
        smallest: smallest change of level that is marked; `floor`: least deviation. Relative, or of the metric itself
            where `relative` is False.
        depends: what must be the same for two runs to be comparable.
    """

    name: Name
    title: str
    unit: str
    better: Literal["lower", "higher"]
    smallest: float = 0.02
    floor: float = 0.002
    relative: bool = True
    depends: Literal["host", "data", "nothing"] = "host"


METRICS: Mapping[Name, Metric] = {
    one.name: one
    for one in (
        Metric("p50", "Median latency", "ms", "lower"),
        Metric("p99", "99th percentile of latency", "ms", "lower"),
        Metric("throughput", "Throughput", "samples/s", "higher"),
        Metric("accuracy", "Task metric", "", "higher", 0.002, 0.0005, relative=False, depends="data"),
        Metric("engine", "Size of the engine", "bytes", "lower", 0.01, 0.0005, depends="nothing"),
    )
}


@dataclass(frozen=True)
class Value:
    """A number with the interval of its own run, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, order=True)
class Key:
    """What a series is about: what was asked for, and the kind of hardware. `shapes`: each measured shape once, such as
    `1×3×224×224`, or the values `[8, 8]` of an input that holds sizes; a model that is measured at two batch sizes has
    two series."""

    model: str
    gpu: str
    precision: str
    backend: str
    shapes: str


@dataclass(frozen=True)
class Point:
    """One run. `host` and `data` are digests of the conditions of times and of the task metric; `conditions` says those of
    `host` in words. `place`: the tag or the file that it was read from. Texts are foreign."""

    key: Key
    created: datetime
    commit: str
    ref: str
    outcome: str
    verdict: str
    place: str
    identity: str
    host: str
    data: str
    higher_is_better: bool
    conditions: Mapping[str, str] = field(repr=False)
    values: Mapping[Name, Value]

    def under(self, metric: Metric) -> str:
        """The conditions that matter for this metric."""
        return {"host": self.host, "data": self.data, "nothing": ""}[metric.depends]


def point(evidence: Evidence, place: str) -> Point | str:
    """The point of a run, or why it has none."""
    created, head = _time(evidence.created), evidence.head
    if created is None:
        return "its evidence has no time"
    if head is None or evidence.model is None:
        return "its run ended before anything was measured" if evidence.error else "it measured no engine"
    values = {name: value for name, value in _values(evidence) if _sound(value)}
    if not values:
        return "it holds no number that is drawn"
    here, task = labels.gpu(evidence), evidence.accuracy.task
    conditions = _conditions(evidence)
    name = str(evidence.settings.get("name") or evidence.model.name)
    key = Key(
        model=_cut(name),
        gpu=_cut(here.name if here else "CPU"),
        precision=head.engine.precision,
        backend=_cut(head.engine.backend),
        shapes=_cut(_shapes(evidence.model)),
    )
    numbers = [value.value for value in values.values()]
    return Point(
        key=key,
        created=created,
        commit=_cut(evidence.source.commit or ""),
        ref=_cut(evidence.source.ref or ""),
        outcome=evidence.outcome,
        verdict=evidence.comparison.verdict if evidence.comparison else "",
        place=_cut(place),
        identity=_digest([vars(key), evidence.created, evidence.source.commit, head.engine.sha256, numbers]),
        host=_digest([evidence.fingerprint.digest if evidence.fingerprint else None, conditions]),
        data=_digest([task.metric, task.data_sha256]) if task else "",
        higher_is_better=task.higher_is_better if task else True,
        conditions=conditions,
        values=values,
    )


def _values(evidence: Evidence) -> Iterator[tuple[Name, Value]]:
    head, task = evidence.head, evidence.accuracy.task
    if head is None:
        return
    if head.latency:
        yield "p50", _percentile(head.latency, "p50")
        yield "p99", _percentile(head.latency, "p99")
    if head.throughput:
        yield "throughput", Value(head.throughput.samples_per_second)
    if task:
        yield "accuracy", Value(task.head.estimate, task.head.low, task.head.high)
    yield "engine", Value(float(head.engine.bytes))


def _percentile(latency: Latency, name: Literal["p50", "p99"]) -> Value:
    interval = latency.intervals.get(name)
    value = latency.p50_ms if name == "p50" else latency.p99_ms
    return Value(value, interval.low_ms if interval else None, interval.high_ms if interval else None)


def _sound(value: Value) -> bool:
    numbers = [one for one in (value.value, value.low, value.high) if one is not None]
    return all(math.isfinite(one) and 0 <= one < MOST for one in numbers)


def _conditions(evidence: Evidence) -> dict[str, str]:
    """What the numbers depend on besides the model, as names and texts: host, libraries, runtime, what was measured."""
    head, found = evidence.head, evidence.fingerprint
    said: dict[str, Any] = {}
    if found:
        for part in (found.hardware, found.software, found.runtime):
            said |= part
    for name, shape in evidence.model.shapes.items() if evidence.model else ():
        said[f"shape of {name}"] = shape.opt
        if shape.values:
            said[f"values of {name}"] = shape.values.opt
    if head and head.throughput:
        said["batch"], said["concurrency"] = head.throughput.batch, head.throughput.concurrency
    return {_cut(str(name)): _cut(_text(value)) for name, value in sorted(said.items())[:MAX_CONDITIONS]}


def _shapes(model: ModelInfo) -> str:
    """Inputs mostly share theirs, and a language model has dozens of them: which input has which is a condition. Of an
    input that holds sizes, its values."""
    said = (
        f"[{', '.join(map(str, one.values.opt))}]" if one.values else "×".join(map(str, one.opt)) or "scalar"
        for one in model.shapes.values()
    )
    return ", ".join(dict.fromkeys(said))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text.strip()[:40])
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
