"""How fast is it, and is head slower than base?

The names of this room are loaded on first use: a measuring worker imports this package too, and the start-up of
workers is part of every comparison.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_action.measure.baseline import speedup
    from trt_action.measure.cpus import usable_cpus
    from trt_action.measure.duet import FREE_LOADING, Plan, compare, recompute
    from trt_action.measure.latency import latencies
    from trt_action.measure.passes import first_load, throughput
    from trt_action.measure.sides import open_unit

__all__ = [
    "FREE_LOADING",
    "Plan",
    "compare",
    "first_load",
    "latencies",
    "open_unit",
    "recompute",
    "speedup",
    "throughput",
    "usable_cpus",
]

_HOMES = {
    "FREE_LOADING": "duet",
    "Plan": "duet",
    "compare": "duet",
    "first_load": "passes",
    "latencies": "latency",
    "open_unit": "sides",
    "recompute": "duet",
    "speedup": "baseline",
    "throughput": "passes",
    "usable_cpus": "cpus",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
