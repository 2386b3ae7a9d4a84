"""The details behind the verdict: one function per folded part, from evidence to plain tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trt_action.evidence import (
    Accuracy,
    AchievedPrecision,
    Comparison,
    Estimate,
    Evidence,
    OutputParity,
    Side,
    TaskMetric,
)
from trt_action.report import format as fmt
from trt_action.report import gpu, llm, search
from trt_action.report import layers as layer_parts
from trt_action.report.escape import clip
from trt_action.report.parts import STATUS_WORD, Cell, Code, Limits, Mark, Section, Table
from trt_action.settings.llm_options import LLM_OPTIONS
from trt_action.settings.options import OPTIONS

METRIC_WORDS = {"top1": "top-1", "top5": "top-5"}


def sections(evidence: Evidence, limits: Limits) -> dict[str, Section]:
    """Every part for which the evidence has something, by name, in reading order."""
    found = (
        gates(evidence, limits),
        latency(evidence),
        llm.section(evidence, limits),
        accuracy(evidence.accuracy, limits),
        precision(evidence, limits),
        search.section(evidence, limits),
        layer_parts.layer_diff(evidence, limits),
        layer_parts.layers(evidence, limits),
        method(evidence.comparison, limits),
        gpu.telemetry(evidence.telemetry, limits),
        fingerprint(evidence, limits),
        stages(evidence, limits),
        settings(evidence, limits),
    )
    return {section.name: section for section in found if section}


def gates(evidence: Evidence, limits: Limits) -> Section | None:
    if not evidence.gates:
        return None
    rows = [
        (
            Code(clip(g.name, limits.name)),
            clip(g.rule, limits.name),
            clip(g.observed, limits.name),
            clip(g.limit, limits.name),
            Mark(g.status, STATUS_WORD[g.status]),
            clip(g.reason, limits.text),
        )
        for g in evidence.gates[: limits.rows]
    ]
    table = _table(("gate", "rule", "observed", "limit", "status", "reason"), rows, len(evidence.gates))
    return Section("gates", f"Gates ({fmt.count(len(evidence.gates))})", tables=(table,))


def latency(evidence: Evidence) -> Section | None:
    """Everything of the latency, throughput, memory and cold-start passes that the first table leaves out."""
    sides = [(role, side) for role, side in (("base", evidence.base), ("head", evidence.head)) if side]
    measured = [(role, side.latency) for role, side in sides if side.latency]
    if not measured:
        return None
    unit = fmt.time_unit([one.p50_ms for _, one in measured])
    rows: list[tuple[Cell, ...]] = []
    for percentile in ("p50", "p90", "p95", "p99"):
        cells = (
            fmt.ms_interval(getattr(x, f"{percentile}_ms"), x.intervals.get(percentile), unit) for _, x in measured
        )
        rows.append((percentile, *cells))
    rows += [(word, *(fmt.ms(getattr(x, f"{word}_ms"), unit) for _, x in measured)) for word in ("min", "mean", "max")]
    rows.append(("samples", *(fmt.count(x.n) for _, x in measured)))
    rows.append(("warm-up", *(_warm_up(x.warmup_iterations, x.warmup_stable) for _, x in measured)))
    if any(side.cold_start for _, side in sides):
        starts = [side.cold_start for _, side in sides if side.latency]
        rows.append(("load, cold start", *(fmt.ms(s.load_ms if s else None) for s in starts)))
        rows.append(("first inference", *(fmt.ms(s.first_inference_ms if s else None) for s in starts)))
    confidence = fmt.percent(measured[0][1].confidence)
    lines = [f"One request at a time at the measured shape. Brackets: {confidence} order-statistic interval."]
    if len(measured) > 1:
        lines[0] += " In the first table, ≈ marks the plain ratio of two passes, which has no interval."
    if evidence.comparison is not None and evidence.comparison.p50_ratio is not None:
        lines[0] += (
            " A difference with an interval comes from the interleaved comparison, where both sides met the same host: "
            "it need not be the ratio of the two times beside it."
        )
    table = Table(("", *(role for role, _ in measured)), tuple(rows), numbers=True)
    on_gpu, said = gpu.parts([(role, x.device) for role, x in measured if x.device])
    return Section("latency", "Latency in detail", (*lines, *said), (table, *on_gpu))


def accuracy(found: Accuracy, limits: Limits) -> Section | None:
    lines: list[str] = []
    tables: list[Table] = []
    if found.task:
        tables.append(_task_table(found.task))
        lines.append(_task_line(found.task))
    elif found.not_checked:
        lines.append(f"Task metric not checked: {clip(found.not_checked, limits.text)}")
    if found.parity:
        parity = found.parity
        data = {"synthetic": "seeded synthetic data, not real ones"}.get(parity.data, f"{parity.data} data")
        lines.append(
            f"Parity: difference from the FP32 reference of each side's own model over {fmt.plural(parity.samples, 'sample')} ({data})."
        )
        columns = {
            "head": parity.head,
            "base": parity.base or {},
            "head, graph optimisation off": parity.head_unoptimized or {},
        }
        rows: list[tuple[Cell, ...]] = [
            (Code(clip(name, limits.name)), role, *_parity_cells(one))
            for role, outputs in columns.items()
            for name, one in outputs.items()
        ]
        header = ("output", "side", "max abs", "mean abs", "relative L2", "cosine", "top-1 agreement", "NaN / Inf")
        tables.append(_table(header, rows[: limits.rows], len(rows), numbers=True))
        if parity.missing_outputs:
            names = ", ".join(clip(n, limits.name) for n in parity.missing_outputs[:10])
            lines.append(f"Outputs that only one side has: {names}.")
    if not lines:
        return None
    return Section("accuracy", "Accuracy and parity", tuple(lines), tuple(tables))


def precision(evidence: Evidence, limits: Limits) -> Section | None:
    sides = [(role, side) for role, side in (("base", evidence.base), ("head", evidence.head)) if side]
    if not sides:
        return None
    proofs = [side.engine.achieved_precision for _, side in sides]
    rows: list[tuple[Cell, ...]] = [
        ("asked", *(p.asked for p in proofs)),
        ("share of FLOPs", *(fmt.share(p.flop_share) for p in proofs)),
        ("share of weights", *(fmt.share(p.weight_share) for p in proofs)),
        ("compute nodes", *(clip(_nodes(p), limits.name) for p in proofs)),
        *layer_parts.precision_rows(sides),
        ("quantize nodes", *(fmt.count(p.quantize_nodes) for p in proofs)),
        ("engine", *(_engine(side, limits) for _, side in sides)),
        ("engine digest", *(Code(side.engine.sha256[:12]) for _, side in sides)),
        ("build", *(_build(side) for _, side in sides)),
        ("model digest", *(Code(side.model.sha256[:12]) for _, side in sides)),
        ("parameters", *(fmt.large(side.model.parameters) for _, side in sides)),
        ("FLOPs", *(fmt.large(side.model.flops) if side.model.flops else fmt.NONE for _, side in sides)),
    ]
    lines = [clip(p.note, limits.text) for p in proofs if p.note]
    kept = proofs[-1].kept_high
    if kept:
        names = ", ".join(clip(n, limits.name) for n in kept[:10])
        lines.append(f"Left in higher precision ({fmt.count(len(kept))}): {names}{', …' if len(kept) > 10 else ''}")
    table = Table(("", *(role for role, _ in sides)), tuple(rows), numbers=True)
    return Section("precision", "Precision achieved", tuple(dict.fromkeys(lines)), (table,))


def method(comparison: Comparison | None, limits: Limits) -> Section | None:
    if comparison is None:
        return None
    named: list[tuple[str, Estimate | None]] = [
        ("p50, paired blocks", comparison.p50_ratio),
        *((WITNESS_WORDS[name], estimate) for name, estimate in comparison.witnesses.items()),
        ("p99, paired blocks", comparison.p99_ratio),
        ("noise floor: base against base", comparison.noise_floor),
    ]
    rows = [(word, fmt.change_interval(x), fmt.percent(x.confidence)) for word, x in named if x]
    return Section(
        "method",
        "How head and base were compared",
        tuple(_method_lines(comparison, limits)),
        (Table(("statistic", "head against base", "confidence"), tuple(rows), numbers=True),) if rows else (),
    )


WITNESS_WORDS = {
    "block_min": "fastest of each block",
    "cpu_time": "CPU or device time",
    "ttft": "time to first text",
}


def more_needed(comparison: Comparison) -> str:
    """What would make an inconclusive comparison conclusive, in words; empty if unknown."""
    if comparison.more_pairs_needed is None:
        return ""
    more = f"about {fmt.plural(comparison.more_pairs_needed, 'more pair')}"
    if not comparison.pairs:
        return f"{more} needed"
    extra = comparison.seconds * comparison.more_pairs_needed / comparison.pairs
    return f"{more} needed, {fmt.seconds(extra)} at this pace"


def _method_lines(c: Comparison, limits: Limits) -> Iterable[str]:
    if c.reason:
        yield clip(c.reason, limits.text)
    yield (
        f"{fmt.plural(c.pairs, 'pair')} of interleaved blocks, {fmt.plural(c.iterations, c.of[:-1])} per side, "
        f"{fmt.plural(len(c.units), 'fresh set')} of {'processes' if c.of == 'inferences' else 'connections'}, "
        f"{fmt.seconds(c.seconds)}, seed {c.seed}."
    )
    if set_aside := sum(unit.set_aside for unit in c.units):
        yield f"{fmt.plural(set_aside, 'round')} measured again: the GPU's clocks were held down or moved meanwhile."
    yield (
        f"A change counts when it is surely above the margin of {fmt.percent(c.margin)}; it is noise when surely below "
        f"the tolerance of {fmt.percent(c.tolerance)} (confidence {fmt.percent(c.confidence)})."
    )
    if c.verdict == "inconclusive" and (more := more_needed(c)):
        yield f"To decide: {more}."


def fingerprint(evidence: Evidence, limits: Limits) -> Section | None:
    found = evidence.fingerprint
    if found is None:
        return None
    groups = {
        "hardware": found.hardware,
        "software": found.software,
        "runtime": found.runtime,
        "hygiene": found.hygiene,
    }
    rows = [
        (group, clip(key, limits.name), Code(clip(plain(value), limits.name)))
        for group, values in groups.items()
        for key, value in values.items()
    ]
    table = _table(("part", "name", "value"), rows[: limits.rows], len(rows))
    return Section("fingerprint", f"Host fingerprint {found.digest[:12]}", tables=(table,))


def stages(evidence: Evidence, limits: Limits) -> Section | None:
    if not evidence.stages:
        return None
    total = sum(stage.seconds for stage in evidence.stages)
    shown = evidence.stages[: limits.rows]
    rows = [(clip(s.name, limits.name), fmt.seconds(s.seconds), clip(s.note, limits.name)) for s in shown]
    table = _table(("stage", "time", "note"), rows, len(evidence.stages))
    return Section("stages", f"Stages ({fmt.seconds(total)})", tables=(table,))


def settings(evidence: Evidence, limits: Limits) -> Section | None:
    unused = _OF_MODELS if evidence.llm else _OF_ENDPOINTS
    chosen = {key: value for key, value in evidence.settings.items() if value is not None and key not in unused}
    if not chosen:
        return None
    rows = [
        (Code(clip(key, limits.name)), Code(clip(plain(value), limits.name)))
        for key, value in list(chosen.items())[: limits.rows]
    ]
    return Section("settings", "Settings", tables=(_table(("setting", "value"), rows, len(chosen)),))


_OF_ENDPOINTS = {row.name for row in LLM_OPTIONS}
_OF_MODELS = {row.name for row in OPTIONS if row.group in {"Precision and data", "Engine"}} - {"backend"}
_OF_MODELS |= {"batch-size", "concurrency", "layers", "measure-seconds"}
"""Settings without a meaning for the other kind of run; they would push those that have one out of the table."""


def plain(value: Any) -> str:
    """A JSON value as a person writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and not any(isinstance(one, list | tuple | dict) for one in value):
        return ", ".join(plain(one) for one in value) or "none"
    return json.dumps(value, ensure_ascii=False, default=str)


def metric_value(task: TaskMetric, value: float | None) -> str:
    """A task metric's value: percent when every value is a fraction, else the number."""
    if value is None:
        return fmt.NONE
    return fmt.share(value) if is_fraction(task) else fmt.number(value, 4)


def metric_change(task: TaskMetric) -> str:
    """Head minus what it is compared with, with its paired interval; positive = larger."""
    if task.drop is None:
        return fmt.NONE
    shown = fmt.points_interval if is_fraction(task) else fmt.difference_interval
    return shown(task.drop, flip=task.higher_is_better)


def is_fraction(task: TaskMetric) -> bool:
    known = (task.head, task.base, task.reference)
    return task.higher_is_better and all(0 <= one.estimate <= 1 for one in known if one)


def metric_word(task: TaskMetric, limit: int = 60) -> str:
    return METRIC_WORDS.get(task.metric, clip(task.metric, limit))


def _task_table(task: TaskMetric) -> Table:
    named = (("FP32 reference", task.reference), ("base", task.base), ("head", task.head))
    rows = [(word, metric_value(task, x.estimate), _metric_interval(task, x)) for word, x in named if x]
    if task.head_unoptimized is not None:
        rows.append(("head, graph optimisation off", metric_value(task, task.head_unoptimized), fmt.NONE))
    return Table(("", metric_word(task), "interval"), tuple(rows), numbers=True)


def _metric_interval(task: TaskMetric, value: Estimate) -> str:
    return f"{metric_value(task, value.low)} – {metric_value(task, value.high)} ({fmt.percent(value.confidence)})"


def _task_line(task: TaskMetric) -> str:
    parts = [f"{metric_word(task)} on {fmt.plural(task.samples, 'labelled sample')}"]
    if task.drop and task.drop_from:
        parts.append(f"head against {task.drop_from}: {metric_change(task)}")
    if task.p_value is not None:
        parts.append(f"McNemar p = {fmt.number(task.p_value, 2)}")
    if task.method:
        parts.append(f"intervals: {clip(task.method, 60)}")
    return "; ".join(parts) + "."


def _parity_cells(one: OutputParity) -> Sequence[str]:
    return (
        scientific(one.max_abs),
        scientific(one.mean_abs),
        scientific(one.relative_l2),
        fmt.NONE if one.cosine is None else f"{one.cosine:.6f}".replace("-", fmt.MINUS),
        fmt.share(one.top1_agreement),
        f"{fmt.count(one.nan)} / {fmt.count(one.inf)}",
    )


def scientific(value: float | None) -> str:
    """An error: 0.0123, or 1.2e−7 where that is shorter."""
    if value is None:
        return fmt.NONE
    return fmt.number(value) if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.2e}".replace("-", fmt.MINUS)


def _nodes(proof: AchievedPrecision) -> str:
    shown: Mapping[str, int] = dict(list(proof.nodes.items())[:6])
    return ", ".join(f"{fmt.count(n)} {clip(name, 20)}" for name, n in shown.items()) or fmt.NONE


def _engine(side: Side, limits: Limits) -> str:
    engine = side.engine
    return clip(f"{engine.backend} {engine.backend_version}, {engine.precision}", limits.name)


def _build(side: Side) -> str:
    return fmt.seconds(side.engine.build_seconds) + (", from the cache" if side.engine.from_cache else "")


def _warm_up(iterations: int, stable: bool) -> str:
    return fmt.plural(iterations, "iteration") + ("" if stable else ", not stable")


def _table(columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], total: int, *, numbers: bool = False) -> Table:
    return Table(columns, tuple(rows), numbers, total - len(rows))
