"""`/metrics` in Prometheus' text format, made from the counters when it is asked for. Names: docs/serving.md.

Where Triton has a metric, ours has its name and meaning (`nv_inference_*`, `nv_gpu_*`; durations in µs as there), so that
its dashboards work. Triton's counters lack the suffix `_total`, which the format asks of a counter: they are given
without a type, and Prometheus treats them alike. Our own metrics follow Prometheus' conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from trt_action import __version__
from trt_action.serve.gpus import Gpus
from trt_action.serve.model import Model
from trt_action.serve.refusal import CAUSES
from trt_action.serve.stats import Histogram, Stats

if TYPE_CHECKING:
    from trt_action.serve.app import App

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = ("model", "version")

TRITON: tuple[tuple[str, str, Callable[[Stats], float]], ...] = (
    ("nv_inference_request_success", "Requests that got an answer.", lambda s: s.success.count),
    ("nv_inference_count", "Samples computed: rows of the batch axis.", lambda s: s.inferences),
    ("nv_inference_exec_count", "Runs of the engine.", lambda s: s.executions),
    ("nv_inference_request_duration_us", "Time of all answered requests, µs.", lambda s: s.success.ns / 1e3),
    ("nv_inference_queue_duration_us", "Time in the queue, µs.", lambda s: s.queue.ns / 1e3),
    ("nv_inference_compute_input_duration_us", "Time to put inputs together, µs.", lambda s: s.input.ns / 1e3),
    ("nv_inference_compute_infer_duration_us", "Time in the engine, µs.", lambda s: s.infer.ns / 1e3),
    ("nv_inference_compute_output_duration_us", "Time to make answers, µs.", lambda s: s.output.ns / 1e3),
)

HISTOGRAMS: tuple[tuple[str, str, Callable[[Stats], Histogram]], ...] = (
    ("trt_action_request_duration_seconds", "From the request's headers to its answer.", lambda s: s.total_seconds),
    ("trt_action_queue_duration_seconds", "From the queue to the engine.", lambda s: s.queue_seconds),
    ("trt_action_compute_duration_seconds", "In the engine.", lambda s: s.compute_seconds),
    ("trt_action_batch_size", "Samples of one run of the engine.", lambda s: s.batch_sizes),
)


class Metrics:
    """The registry of one server."""

    def __init__(self, app: App) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Server(app))
        self._registry.register(_Gpu(Gpus()))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Server(Collector):
    def __init__(self, app: App) -> None:
        self._app = app

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        models = self._app.repository.models()
        yield from _triton(models)
        yield from _histograms(models)
        yield from self._state(models)

    def _state(self, models: list[Model]) -> Iterator[Metric]:
        app = self._app
        yield _gauge("trt_action_ready", "1 while requests are taken.", float(app.ready))
        yield _gauge("trt_action_requests_in_flight", "Requests that are read, waiting or computed.", app.in_flight)
        yield _gauge("trt_action_request_bytes_in_flight", "Bytes of their bodies.", app.budget.held)
        yield _gauge("trt_action_connections", "Open connections.", app.connections())
        errors = CounterMetricFamily(
            "trt_action_errors", "Refused requests by cause, of any address.", labels=["cause"]
        )
        for cause in CAUSES:
            errors.add_metric([cause], app.errors[cause])  # from 0 on: else `rate` would miss the first ones
        yield errors
        refused = CounterMetricFamily("trt_action_connections_refused", "Connections closed for a limit.")
        refused.add_metric([], app.refused_connections())
        yield refused
        loads = CounterMetricFamily(
            "trt_action_model_loads", "Loads and reloads by result.", labels=["model", "result"]
        )
        for model, result in product(sorted({name for name, _ in app.repository.loads}), ("success", "failure")):
            loads.add_metric([model, result], app.repository.loads[model, result])
        yield loads
        engines = InfoMetricFamily("trt_action_engine", "What is served.", labels=LABELS)
        for one in models:
            engines.add_metric((one.name, one.version), described(one))
        yield engines
        yield InfoMetricFamily("trt_action_server", "The server itself.", value={"server_version": __version__})


class _Gpu(Collector):
    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for uuid, name, words, value in self._gpus.readings():
            if name not in families:
                families[name] = GaugeMetricFamily(name, words, labels=["gpu_uuid"])
            families[name].add_metric([uuid], value)
        yield from families.values()


def described(model: Model) -> dict[str, str]:
    """Labels that say which engine answers: digests, precision, backend, commit."""
    evidence = model.served.evidence or {}
    source = evidence.get("source")
    commit = source.get("commit") if isinstance(source, dict) else None
    engine = model.served.engine
    return {
        "backend": str(engine.get("backend", "")),
        "backend_version": str(engine.get("backend_version", "")),
        "precision": str(engine.get("precision", "")),
        "engine_sha256": str(engine.get("sha256", "")),
        "model_sha256": str(model.served.model.get("sha256", "")),
        "commit": str(commit or ""),
        "max_batch": str(model.limits.rows),
    }


def _triton(models: list[Model]) -> Iterator[Metric]:
    for name, words, read in TRITON:
        family = UnknownMetricFamily(name, words, labels=LABELS)
        for model in models:
            family.add_metric((model.name, model.version), read(model.stats))
        yield family
    failures = UnknownMetricFamily(
        "nv_inference_request_failure", "Requests without an answer.", labels=[*LABELS, "reason"]
    )
    waiting = GaugeMetricFamily("nv_inference_pending_request_count", "Requests in the queue.", labels=LABELS)
    for model in models:
        for cause, count in model.stats.failures.items():
            failures.add_metric((model.name, model.version, cause), count)
        waiting.add_metric((model.name, model.version), model.batcher.waiting)
    yield failures
    yield waiting


def _histograms(models: list[Model]) -> Iterator[Metric]:
    for name, words, read in HISTOGRAMS:
        family = HistogramMetricFamily(name, words, labels=LABELS)
        for model in models:
            found = read(model.stats)
            family.add_metric((model.name, model.version), found.cumulative(), found.sum)
        yield family


def _gauge(name: str, words: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, words)
    family.add_metric([], value)
    return family
