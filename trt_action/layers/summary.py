"""From parsed layers to the record: bounded in number, with shares of the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trt_action.evidence import Precision
from trt_action.layer_records import Layer, LayerReport
from trt_action.layers import types
from trt_action.layers.graph import HELPERS, Node
from trt_action.layers.parsed import ParsedLayer

MOST_LAYERS = 600
_MOST_NODES = 20
_NAME = 300
_DIGITS = 6


@dataclass(frozen=True)
class Seen:
    """What a side's process found: layers in the order of execution, and the nodes of the graph behind the engine."""

    source: Literal["tensorrt-inspector", "onnxruntime-profiler"]
    device: Literal["cpu", "gpu"]
    layers: tuple[ParsedLayer, ...]
    nodes: tuple[Node, ...]
    rounds: int
    runs: int
    note: str = ""


def report(seen: Seen, asked: Precision) -> LayerReport:
    """The record of one side. Of more than `MOST_LAYERS` layers, the slowest stay."""
    total = total_ms(seen.layers)
    helpers = {node.name for node in seen.nodes if node.op in HELPERS}
    slowest = sorted(range(len(seen.layers)), key=lambda i: -(seen.layers[i].ms or 0.0))[:MOST_LAYERS]
    kept = [seen.layers[i] for i in sorted(slowest)]
    listed = sum(layer.ms or 0.0 for layer in kept)
    return LayerReport(
        source=seen.source,
        device=seen.device,
        layers=[_record(layer, total, helpers) for layer in kept],
        left_out=len(seen.layers) - len(kept),
        left_out_ms=_round(max(0.0, (total or 0.0) - listed)),
        total_ms=None if total is None else _round(total),
        rounds=seen.rounds,
        runs=seen.runs,
        by_precision=by_precision(seen.layers),
        asked=asked,
        asked_share=asked_share(seen.layers, asked),
        note=seen.note[:2_000],
    )


def total_ms(layers: Sequence[ParsedLayer]) -> float | None:
    """Time of all layers; None where none has a time."""
    times = [layer.ms for layer in layers if layer.ms is not None]
    return sum(times) if times else None


def by_precision(layers: Sequence[ParsedLayer]) -> dict[str, float]:
    """Share of the time, largest first. Conversions are no work in any precision: they stand alone."""
    total = total_ms(layers)
    if not total:
        return {}
    found: dict[str, float] = {}
    for layer in layers:
        key = "convert" if layer.role == "convert" else layer.precision or "unknown"
        found[key] = found.get(key, 0.0) + (layer.ms or 0.0) / total
    return {key: round(share, _DIGITS) for key, share in sorted(found.items(), key=lambda item: -item[1])}


def asked_share(layers: Sequence[ParsedLayer], asked: str) -> float | None:
    """Of the time of products and convolutions, the part in the asked precision or a cheaper one.

    Only they are asked: a softmax that stays in fp32 beside fast int8 products is how it should be, and the faster the
    products get, the larger its share of all time. Conversions between them do not count either; they are shown.
    None where no product has a time, where none has a known type, and for tf32, which no type tells from fp32.
    """
    products = [layer for layer in layers if layer.role == "compute" and layer.ms is not None]
    total = sum(layer.ms or 0.0 for layer in products)
    known = any(layer.precision in types.RANK for layer in products)
    if not total or not known or asked == "tf32":
        return None
    reached = sum(layer.ms or 0.0 for layer in products if types.reached(layer.precision, asked))
    return round(min(1.0, reached / total), _DIGITS)


def _record(layer: ParsedLayer, total: float | None, helpers: set[str]) -> Layer:
    shown = [name for name in layer.nodes if name not in helpers] or list(layer.nodes)
    return Layer(
        name=clip(layer.name),
        kind=clip(layer.kind),
        role=layer.role,
        precision=layer.precision,
        tactic=clip(layer.tactic),
        ms=None if layer.ms is None else _round(layer.ms),
        low_ms=_round(min(layer.rounds)) if layer.rounds else None,
        high_ms=_round(max(layer.rounds)) if layer.rounds else None,
        share=None if layer.ms is None or not total else round(min(1.0, layer.ms / total), _DIGITS),
        nodes=[clip(name) for name in shown[:_MOST_NODES]],
        node_count=len(shown),
        inputs=[clip(one) for one in layer.inputs[:8]],
        outputs=[clip(one) for one in layer.outputs[:8]],
    )


def clip(text: str, limit: int = _NAME) -> str:
    """Names are foreign and may have any length; JSON has no lone surrogates."""
    plain = text.encode("utf-8", "replace").decode()
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def _round(ms: float) -> float:
    return round(ms, _DIGITS)
