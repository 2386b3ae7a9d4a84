"""The child side of the pass over layers: loads one engine, runs it under its backend's profiler, reads what that says.

A fresh process, never one that times anything: a profiler slows inferences down, and what it writes is parsed here, where
a crash costs a table.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path

from trt_action import arrays, engine
from trt_action.engine.backend import Loadable, RawLayers, Session
from trt_action.errors import MeasureError
from trt_action.layers import graph, inspector, profile
from trt_action.layers.graph import Graph
from trt_action.layers.parsed import ParsedLayer, joined
from trt_action.process import Channel, Message

_TRIAL = 3
_LAUNCHES = "CUDA_LAUNCH_BLOCKING"
_BLOCKING = (
    "Each kernel was waited for, so that its time is the GPU's and not that of the call that starts it; starting it "
    "(10 to 25 µs) is in every layer's time."
)


def main(channel: Channel) -> None:
    """Serve requests until the parent closes its end."""
    worker = Worker()
    while (request := channel.receive()) is not None:
        name = request.pop("request")
        channel.send(getattr(worker, name)(**request))
    worker.close()


class Worker:
    """One engine in this process. Every public method is one request; arguments and answers are plain JSON."""

    def __init__(self) -> None:
        self._loadable: Loadable
        self._session: Session | None = None
        self._engine = Graph()
        self._source = Graph()
        self._seen: list[RawLayers] = []

    def load(self, loadable: Message, prepared: str | None, feeds: str, cpus: list[int] | None) -> Message:
        """Load the engine and the graph it was built from, and try a few inferences.

        Returns `{load_s, run_s, nodes}`: seconds of loading and of one inference, nodes of the optimised graph.
        """
        self._loadable = _without_graph(Loadable.from_json(loadable))
        if self._loadable.backend == "onnxruntime" and self._loadable.options.gpu is not None:
            os.environ[_LAUNCHES] = "1"  # read when CUDA starts, which is below
        backend = engine.backend(self._loadable.backend)
        backend.version()
        if cpus:
            os.sched_setaffinity(0, cpus)
        if self._loadable.backend == "onnxruntime":
            self._engine = graph.read(self._loadable.path)
        self._source = graph.read(Path(prepared)) if prepared else self._engine
        inputs = arrays.load_npz(Path(feeds))
        start = time.perf_counter()
        self._session = session = backend.load(self._loadable)
        loaded = time.perf_counter()
        session.bind(inputs)
        session.run()
        begin = time.perf_counter()
        for _ in range(_TRIAL):
            session.run()
        run_s = (time.perf_counter() - begin) / _TRIAL
        return {"load_s": loaded - start, "run_s": run_s, "nodes": len(self._engine.nodes)}

    def round(self, iterations: int) -> Message:
        """One round of `iterations` inferences. `{profiled: false}` if the backend has no profiler."""
        if self._session is None:
            raise MeasureError("The layers were asked for before an engine was loaded.", fix="Please report this.")
        raw = self._session.layers(iterations)
        if raw is not None:
            self._seen.append(raw)
        return {"profiled": raw is not None}

    def found(self) -> Message:
        """Layers over all rounds, and the nodes of the source (without their edges)."""
        if not self._seen:
            raise MeasureError(
                f"The backend {self._loadable.backend} has no profiler of layers.",
                fix="Set `layers: false` for this backend.",
            )
        parsed = [self._parse(raw) for raw in self._seen]
        layers = joined([layers for layers, _ in parsed])
        notes = [*(raw.note for raw in self._seen), *(note for _, note in parsed)]
        if os.environ.get(_LAUNCHES):
            notes.append(_BLOCKING)
        on_gpu = self._loadable.backend != "onnxruntime" or self._loadable.options.gpu is not None
        return {
            "source": self._seen[0].source,
            "device": "gpu" if on_gpu else "cpu",
            "layers": [asdict(layer) for layer in layers],
            "nodes": [(node.name, node.op, node.signature) for node in self._source.nodes],
            "rounds": len(self._seen),
            "runs": sum(raw.iterations for raw in self._seen),
            "note": " ".join(dict.fromkeys(note for note in notes if note)),
        }

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _parse(self, raw: RawLayers) -> tuple[list[ParsedLayer], str]:
        if raw.source == "tensorrt-inspector":
            return inspector.parse(raw.document, raw.runs[-raw.iterations :], self._source)
        return profile.parse(raw.document, raw.iterations, self._engine, self._source), ""


def _without_graph(loadable: Loadable) -> Loadable:
    """A CUDA graph is one piece: it has no layers to time."""
    return replace(loadable, options=replace(loadable.options, cuda_graph=False))
