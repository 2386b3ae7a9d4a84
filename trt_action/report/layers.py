"""Layers: what is different from base, and what an engine is made of. From evidence to plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trt_action.evidence import Evidence, Side
from trt_action.layer_records import Layer, LayerChange, LayerChangeKind, LayerDiff, LayerReport
from trt_action.report import format as fmt
from trt_action.report.escape import clip
from trt_action.report.parts import Cell, Code, Limits, Section, Table

KIND_WORDS: Mapping[LayerChangeKind, str] = {
    "higher-precision": "fell back to higher precision",
    "lost-fusion": "lost fusion",
    "new-conversion": "new conversion",
    "slower": "slower",
    "faster": "faster",
    "appeared": "new",
    "vanished": "gone",
    "new-fusion": "fused now",
}
COSTS: frozenset[LayerChangeKind] = frozenset(
    {"higher-precision", "lost-fusion", "new-conversion", "slower", "appeared"}
)

WORTH = 0.01
"""A change is worth a reviewer's time from this share of base's time of all layers on."""


def layer_diff(evidence: Evidence, limits: Limits) -> Section | None:
    """Head's layers against base's: what costs time first. In the comment, only where something does."""
    diff = evidence.layer_diff
    if diff is None or not diff.changes or (limits.layers == 0 and not worth_showing(evidence)):
        return None
    shown = chosen(diff, limits.changes)
    rows: list[tuple[Cell, ...]] = [
        (
            Code(clip(change.title, limits.name)),
            ", ".join(KIND_WORDS[kind] for kind in change.kinds),
            fmt.ms(change.base_ms),
            fmt.ms(change.head_ms),
            difference(change.delta_ms),
            clip(change.detail, limits.name),
        )
        for change in shown
    ]
    total = len(diff.changes) + diff.left_out
    table = Table(("layer", "what", "base", "head", "difference", "how"), tuple(rows), left_out=total - len(rows))
    return Section("layer-diff", f"What is different in the layers ({fmt.count(total)})", tuple(_lines(diff)), (table,))


def worth_showing(evidence: Evidence) -> bool:
    """Whether some change costs time that matters, or head is slower and there is any change at all."""
    diff = evidence.layer_diff
    if diff is None or not diff.changes:
        return False
    if evidence.comparison and evidence.comparison.verdict == "regressed":
        return True
    least = WORTH * (diff.base_ms or 0.0)
    return any(
        "higher-precision" in change.kinds or (COSTS & set(change.kinds) and (change.delta_ms or 0.0) > least)
        for change in diff.changes
    )


def chosen(diff: LayerDiff, most: int) -> list[LayerChange]:
    """The largest differences, what costs first."""
    largest = sorted(diff.changes, key=lambda change: -abs(change.delta_ms or 0.0))[:most]
    return sorted(largest, key=lambda change: -(change.delta_ms or 0.0))


def difference(delta_ms: float | None) -> str:
    """`+0.041 ms`, `−3.1 µs`."""
    if delta_ms is None:
        return fmt.NONE
    return f"{'+' if delta_ms > 0 else fmt.MINUS if delta_ms < 0 else ''}{fmt.ms(abs(delta_ms))}"


def one_line(change: LayerChange) -> str:
    """`conv3 + relu4: lost fusion, slower, +0.041 ms (1 → 2 layers (Conv → Conv + Relu))`."""
    words = ", ".join(KIND_WORDS[kind] for kind in change.kinds)
    detail = f" ({clip(change.detail, 100)})" if change.detail else ""
    return f"{clip(change.title, 80)}: {words}, {difference(change.delta_ms)}{detail}"


def _lines(diff: LayerDiff) -> list[str]:
    total = ""
    if diff.head_ms is not None and diff.base_ms is not None:
        total = f" All layers: {fmt.ms(diff.base_ms)} → {fmt.ms(diff.head_ms)}."
    said = (
        f"Of {fmt.plural(diff.matched, 'layer')} that both have, {fmt.count(diff.unchanged)} "
        f"{'is' if diff.unchanged == 1 else 'are'} alike. Matched by the ONNX nodes they come from; times are with the "
        f"profiler on, head and base in turns: longer than without, good for comparing.{total}"
    )
    return [said, diff.note] if diff.note else [said]


def layers(evidence: Evidence, limits: Limits) -> Section | None:
    """Every layer of each side; not in the comment."""
    known = [(role, side.layers) for role, side in (("head", evidence.head), ("base", evidence.base)) if side]
    reports = [(role, report) for role, report in known if report]
    if not reports or limits.layers == 0:
        return None
    lines = [line for role, report in reports for line in _about(role, report)]
    tables = tuple(_table(role, report, limits) for role, report in reports)
    return Section("layers", "Layers", tuple(lines), tables)


def _about(role: str, report: LayerReport) -> list[str]:
    tool = {
        "tensorrt-inspector": "TensorRT's inspector and profiler",
        "onnxruntime-profiler": "ONNX Runtime's profiler",
    }
    count = len(report.layers) + report.left_out
    said = f"{role.capitalize()}: {fmt.plural(count, 'layer')} on the {clip(report.device, 20).upper()}"
    if report.total_ms is not None:
        said += (
            f", {fmt.ms(report.total_ms)} in all with the profiler on (mean of {fmt.plural(report.runs, 'inference')})"
        )
    if report.by_precision:
        said += f": {by_precision(report)}"
    return [f"{said}. From {tool[report.source]}.", *([f"{role.capitalize()}: {report.note}"] if report.note else [])]


def by_precision(report: LayerReport) -> str:
    """`int8 53.7 %, conversions 32.5 %, fp32 13.8 %`: of the time of all layers."""
    shown = list(report.by_precision.items())[:6]
    return ", ".join(
        f"{'conversions' if name == 'convert' else clip(name, 20)} {fmt.share(part)}" for name, part in shown
    )


def precision_rows(sides: Sequence[tuple[str, Side]]) -> list[tuple[Cell, ...]]:
    """What the layers say about the precision that was asked for; nothing where nobody looked at them."""
    reports = [side.layers for _, side in sides]
    if not any(reports):
        return []
    return [
        (
            "time of products in it, or cheaper",
            *(fmt.share(report.asked_share) if report else fmt.NONE for report in reports),
        ),
        ("time of all layers", *((by_precision(report) or fmt.NONE) if report else fmt.NONE for report in reports)),
    ]


def _table(role: str, report: LayerReport, limits: Limits) -> Table:
    slowest = sorted(report.layers, key=lambda layer: -(layer.ms or 0.0))[: limits.layers]
    columns = (f"{role}, slowest first", "kind", "precision", "time", "share", "ONNX nodes", "kernel", "formats")
    rows = tuple(_row(layer, limits) for layer in slowest)
    return Table(columns, rows, left_out=len(report.layers) + report.left_out - len(rows))


def _row(layer: Layer, limits: Limits) -> tuple[Cell, ...]:
    more = f" + {fmt.count(layer.node_count - len(layer.nodes))} more" if layer.node_count > len(layer.nodes) else ""
    formats = f"{', '.join(layer.inputs[:3])} → {', '.join(layer.outputs[:2])}" if layer.outputs else ""
    return (
        Code(clip(layer.name, limits.name)),
        clip(layer.kind, 60),
        clip(layer.precision or fmt.NONE, 20),
        fmt.ms(layer.ms),
        fmt.share(layer.share),
        Code(clip(" + ".join(layer.nodes) + more, limits.name)),
        Code(clip(layer.tactic, limits.name)),
        clip(formats, limits.name),
    )
