"""trtexec's statistics and warnings, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trt_action.measure.device_latency import device_latency, distribution

MS = 1_000_000


def times(compute: Sequence[float], h2d: float = 0.1, d2h: float = 0.1, enqueue: float = 0.2) -> dict[str, list[int]]:
    n = len(compute)
    parts = {"h2d": [h2d] * n, "compute": compute, "d2h": [d2h] * n, "enqueue": [enqueue] * n}
    return {name: [int(value * MS) for value in values] for name, values in parts.items()}


def test_percentiles_by_trtexecs_rule() -> None:
    found = distribution([i * MS for i in range(1, 101)])
    assert (found.min_ms, found.max_ms, found.mean_ms, found.median_ms) == (1, 100, 50.5, 50.5)
    assert (found.p90_ms, found.p95_ms, found.p99_ms) == (91, 95, 99)  # (1 - 90 / 100) * 100 is 9.999… in binary
    assert found.cv == pytest.approx(28.866 / 50.5, rel=1e-4)
    assert distribution([7]).p99_ms == distribution([7]).median_ms


def test_latency_is_the_sum_of_its_parts_inference_by_inference() -> None:
    found = device_latency(times([1, 2, 3], h2d=0.5, d2h=0.25), transfers=True, cuda_graph=False)
    assert found
    assert (found.latency.min_ms, found.latency.median_ms, found.latency.max_ms) == (1.75, 2.75, 3.75)
    assert found.h2d
    assert found.h2d.median_ms == 0.5


def test_parts_that_are_not_there() -> None:
    assert device_latency(times([]), transfers=True, cuda_graph=False) is None
    found = device_latency({**times([1.0]), "enqueue": []}, transfers=False, cuda_graph=True)
    assert found
    assert found.h2d is found.d2h is found.enqueue is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (times([1.0] * 9), []),
        (times([1.0] * 9, enqueue=0.8), []),
        (times([1.0] * 9, enqueue=0.81), ["to enqueue"]),
        (times([1.0] * 9, h2d=0.99), []),
        (times([1.0] * 9, h2d=1.0), ["Copying inputs"]),
        (times([1.0] * 9, h2d=1.5, d2h=1.0), ["Copying inputs", "Copying outputs"]),
        (times([1.0, 1.04] * 5), []),
        (times([1.0, 1.06] * 5), ["not stable"]),
    ],
)
def test_its_warnings(given: dict[str, list[int]], words: list[str]) -> None:
    found = device_latency(given, transfers=True, cuda_graph=False)
    assert found
    assert len(found.warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, found.warnings, strict=True))
