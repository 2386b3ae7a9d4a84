"""The parent's side: one process per engine, asked in turns, so that a drift of the host meets both sides alike."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action.engine.backend import Loadable
from trt_action.errors import MeasureError, TrtActionError, record, restore
from trt_action.evidence import Precision
from trt_action.layer_records import LayerDiff, LayerReport
from trt_action.layers.diff import diff
from trt_action.layers.graph import Node
from trt_action.layers.parsed import ParsedLayer
from trt_action.layers.summary import Seen, report
from trt_action.process import Child, Progress

TARGET = "trt_action.layers.worker:main"
TIMEOUT = 300.0
"""Seconds for one request; loading a large engine is the longest honest one."""

ROUNDS = (6, 3, 1)
"""As many as fit. Of two equal sides, six rounds of one are all slower than six of the other once in 924 layers."""
LONGEST = 2.0
"""Seconds per side that the smallest rounds may take; ONNX Runtime loads the engine anew for each."""
OVERHEAD = 2.0
"""An inference under a profiler takes about so many times as long as without, where layers are small."""
WARM_UP = 3
"""Inferences of a round that do not count (engine/ort_session.py, engine/tensorrt/profiling.py)."""
MIN_ITERATIONS, MAX_ITERATIONS = 2, 50
MOST_EVENTS = 20_000
"""Of a profile: each takes 700 bytes of JSON."""


@dataclass(frozen=True)
class Side:
    """`prepared` is the ONNX graph that the engine was built from, or None; `asked` the precision that was asked for."""

    loadable: Loadable
    prepared: Path | None
    feeds: Path
    asked: Precision


def look(
    sides: Mapping[str, Side], *, seconds: float, cpus: frozenset[int] | None, progress: Progress
) -> tuple[dict[str, LayerReport], LayerDiff | None]:
    """The layers of each side (`head`, `base`), and the difference if both are there.

    Args:
        seconds: of inferences under the profiler, per side and about.
        cpus: what the processes are pinned to.

    Raises:
        MeasureError: a process died, or its profiler told nothing that can be read.
        BuildError, DataError, OutOfMemoryError, BackendUnavailableError, StorageError: from the backend.
    """
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(Child(TARGET, died=MeasureError)) for name in sides}
        costs = {name: _load(name, children[name], side, cpus) for name, side in sides.items()}
        rounds = min(cost.rounds() for cost in costs.values())
        for number in range(rounds):
            for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                progress(f"layers of {name}, round {number + 1} of {rounds}", None)
                iterations = costs[name].iterations(seconds / rounds)
                _ask(name, children[name], {"request": "round", "iterations": iterations})
        seen = {name: _seen(_ask(name, child, {"request": "found"})) for name, child in children.items()}
    reports = {name: report(one, sides[name].asked) for name, one in seen.items()}
    both = "head" in seen and "base" in seen
    return reports, diff(seen["head"], seen["base"], sides["head"].asked) if both else None


@dataclass(frozen=True)
class _Cost:
    """Seconds of loading and of one inference without a profiler; nodes of the optimised graph."""

    load_s: float
    run_s: float
    nodes: int

    def rounds(self) -> int:
        smallest = self.load_s + (WARM_UP + MIN_ITERATIONS) * self.run_s
        return next((rounds for rounds in ROUNDS if rounds * smallest <= LONGEST), ROUNDS[-1])

    def iterations(self, seconds: float) -> int:
        fits = int(seconds / max(self.run_s * OVERHEAD, 1e-6))
        most = min(MAX_ITERATIONS, MOST_EVENTS // max(1, self.nodes))
        return max(MIN_ITERATIONS, min(fits, most))


def _load(name: str, child: Child, side: Side, cpus: frozenset[int] | None) -> _Cost:
    answer = _ask(
        name,
        child,
        {
            "request": "load",
            "loadable": side.loadable.as_json(),
            "prepared": str(side.prepared) if side.prepared else None,
            "feeds": str(side.feeds),
            "cpus": sorted(cpus) if cpus else None,
        },
    )
    return _Cost(answer["load_s"], answer["run_s"], answer["nodes"])


def _ask(name: str, child: Child, message: dict[str, Any]) -> dict[str, Any]:
    try:
        return child.request(message, timeout=TIMEOUT)
    except TrtActionError as error:
        raise restore({**record(error), "what": f"{name}: {error.what}"}) from error


def _seen(answer: Mapping[str, Any]) -> Seen:
    return Seen(
        source=answer["source"],
        device=answer["device"],
        layers=tuple(ParsedLayer(**{**one, **_tuples(one)}) for one in answer["layers"]),
        nodes=tuple(Node(name, op, (), (), signature) for name, op, signature in answer["nodes"]),
        rounds=answer["rounds"],
        runs=answer["runs"],
        note=answer["note"],
    )


def _tuples(layer: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(layer[key]) for key in ("inputs", "outputs", "nodes", "rounds")}
