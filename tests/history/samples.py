"""Runs of one model over many commits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from tests.report import samples
from trt_action.evidence import Evidence, Interval, Source
from trt_action.history.points import Point, point

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def commit(number: int) -> str:
    return hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()


def run(number: int, p50_ms: float = 0.361, *, host: Mapping[str, Any] | None = None, **changes: Any) -> Evidence:
    """The evidence of the run of commit `number`; `host` changes the fingerprint's hardware."""
    between = {"p50": Interval(low_ms=p50_ms * 0.995, high_ms=p50_ms * 1.005), "p90": None, "p95": None, "p99": None}
    latency = samples.latency(0.361, n=200, series=None).model_copy(
        update={"p50_ms": p50_ms, "p99_ms": p50_ms * 1.4, "intervals": between}
    )
    side = samples.side(latency=latency, engine=samples.engine(sha256=hashlib.sha256(str(number).encode()).hexdigest()))
    prints = samples.fingerprint()
    if host:
        hardware = {**prints.hardware, **host}
        digest = hashlib.sha256(str(sorted(hardware.items(), key=str)).encode()).hexdigest()
        prints = prints.model_copy(update={"hardware": hardware, "digest": digest})
    values: dict[str, Any] = {
        "head": side,
        "created": (START + timedelta(hours=number)).isoformat(),
        "source": Source(commit=commit(number), ref="refs/heads/main"),
        "fingerprint": prints,
    }
    return samples.passed(**values | changes)


def points(values: Sequence[float], **changes: Any) -> list[Point]:
    found = [point(run(number, value, **changes), f"sha-{number}") for number, value in enumerate(values)]
    assert all(isinstance(one, Point) for one in found)
    return [one for one in found if isinstance(one, Point)]


def level(n: int, seed: int = 0, deviation: float = 0.008) -> Any:
    """p50 of `n` runs of the same model."""
    return 0.361 * np.exp(np.random.default_rng(seed).normal(0, deviation, n))
