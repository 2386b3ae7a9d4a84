"""TensorRT's own profiler: milliseconds by layer, from a context of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = tuple[tuple[str, float], ...]

WARMUP = 3
"""Inferences before those that count."""


def inspect(trt: Any, engine: Any, context: Any) -> str:
    """The engine inspector's JSON. With the context's input shapes set it tells the kernels for these shapes."""
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def runs(trt: Any, context: Any, infer: Callable[[Any], None], iterations: int) -> tuple[Run, ...]:
    """What the profiler reports in each of `iterations` inferences: (layer, ms) in its order.

    `infer` must wait for the GPU: the reports come when an inference is complete. It takes the context, and is no function
    that holds it: an exception would keep that alive (`lifetime.let_go` cannot reach it).
    """
    reported: list[tuple[str, float]] = []

    class _Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.append((layer_name, float(ms)))

    profiler = _Profiler()
    context.profiler = profiler
    found: list[Run] = []
    for _ in range(WARMUP + iterations):
        reported.clear()
        infer(context)
        found.append(tuple(reported))
    return tuple(found[WARMUP:])
