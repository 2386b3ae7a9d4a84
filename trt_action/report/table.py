"""The one table under the verdict: what was measured on base and head, the difference, the limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trt_action.evidence import Evidence, Gate, GateStatus, Latency, OutputParity, Side, TaskMetric
from trt_action.llm_records import LlmRun
from trt_action.report import format as fmt
from trt_action.report import llm
from trt_action.report import sections as parts
from trt_action.report.escape import clip
from trt_action.report.headline import headline, model_name, verdict
from trt_action.report.parts import Cell, Limits, Mark, Table

PERCENTILES = ("p50", "p90", "p95", "p99")
NOT_CHECKED = "not checked"

_WORST_FIRST: tuple[GateStatus, ...] = ("failed", "inconclusive", "not-checked", "passed")
_PERCENTILE = re.compile(r"\bp(?:50|90|95|99)\b")


@dataclass(frozen=True)
class _Row:
    label: str
    base: str
    head: str
    difference: str = fmt.NONE
    gates: tuple[str, ...] = ()
    """Names of the gates that judge this row."""
    served: str = ""
    """`ttft@16`: the time and the requests in flight that a rule about an endpoint names."""


def first_table(evidence: Evidence, limits: Limits) -> Table | None:
    """Rows: latency, throughput, memory, size, accuracy. Columns that would be empty are left out."""
    head, served = evidence.head, evidence.llm
    if served is not None:
        rows = [*_served_rows(evidence, served), *_accuracy_rows(evidence)]
    elif head is not None:
        rows = [*_latency_rows(evidence, head), *_resource_rows(head, evidence.base), *_accuracy_rows(evidence)]
    else:
        return None
    columns: dict[str, list[Cell]] = {
        "": [row.label for row in rows],
        "base": [row.base for row in rows],
        "head": [row.head for row in rows],
        "difference": [row.difference for row in rows],
        "limit": [_limit_cell(evidence.gates, row, limits) for row in rows],
    }
    if evidence.base is None and (served is None or served.base is None):
        del columns["base"]
    for optional in ("difference", "limit"):
        if all(cell == fmt.NONE for cell in columns[optional]):
            del columns[optional]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), numbers=True)


def overall_table(evidences: Sequence[Evidence], limits: Limits) -> Table:
    """One row per model and host."""
    rows = tuple(_overall_row(e) for e in evidences[: limits.models])
    columns = ("model", "engine", "host", "verdict", "p50", "p50 against base", "accuracy")
    return Table(columns, rows, left_out=len(evidences) - len(rows))


def _overall_row(evidence: Evidence) -> tuple[Cell, ...]:
    line, head, task = headline(evidence), evidence.head, evidence.accuracy.task
    ratio = evidence.comparison.p50_ratio if evidence.comparison else None
    if evidence.llm is not None:
        engine = clip(evidence.llm.head.label, 40)
        p50 = llm.line(evidence) or NOT_CHECKED
    else:
        engine = clip(f"{head.engine.precision}, {head.engine.backend}", 40) if head else fmt.NONE
        p50 = fmt.ms(head.latency.p50_ms) if head and head.latency else NOT_CHECKED
    return (
        model_name(evidence, 60),
        engine,
        host_name(evidence, 40),
        Mark(verdict(evidence), line.word),
        p50,
        fmt.change_interval(ratio) if ratio else NOT_CHECKED,
        parts.metric_value(task, task.head.estimate) if task else NOT_CHECKED,
    )


def _served_rows(evidence: Evidence, run: LlmRun) -> Iterable[_Row]:
    """The paired comparison first: it is what decides. Then the passes."""
    c = evidence.comparison
    if c is not None and c.p50_ratio:
        yield _Row(
            "whole answer, paired", fmt.NONE, fmt.NONE, fmt.change_interval(c.p50_ratio), ("max-latency-regression",)
        )
        first = c.witnesses.get("ttft")
        if first:
            yield _Row("first text, paired", fmt.NONE, fmt.NONE, fmt.change_interval(first))
    for label, base, head, difference, concurrency, metric in llm.rows(run):
        mark = f"{metric}@{concurrency}"
        gates = ("min-throughput",) if metric == "throughput" and concurrency == llm.levels(run)[-1] else ()
        row = _Row(label, base, head, difference, gates or ("latency-threshold",), mark)
        if metric != "itl" or any(g.name == "latency-threshold" and _is_about(g, row) for g in evidence.gates):
            yield row  # tpot says nearly the same; gaps are shown where a gate is about them
    if not run.head.levels:
        yield _Row("times", fmt.NONE, NOT_CHECKED, gates=("latency-threshold", "min-throughput"))


def host_name(evidence: Evidence, limit: int = 60) -> str:
    """The GPU, else the CPU, that was measured on."""
    hardware = evidence.fingerprint.hardware if evidence.fingerprint else {}
    for key in ("gpu", "cpu_model", "machine"):
        value = hardware.get(key)
        if isinstance(value, dict):
            value = value.get("name") or value.get("model")
        if value:
            return clip(parts.plain(value), limit)
    return "unknown host"


def _latency_rows(evidence: Evidence, head: Side) -> Iterable[_Row]:
    ours = head.latency
    theirs = evidence.base.latency if evidence.base else None
    if ours is None:
        compared = evidence.comparison is not None and evidence.comparison.p50_ratio is not None
        label, cell = ("p50", fmt.NONE) if compared else ("latency", NOT_CHECKED)
        gates = ("latency-threshold", "max-latency-regression")
        yield _Row(label, fmt.NONE, cell, _latency_change(evidence, "p50") if compared else fmt.NONE, gates)
        return
    unit = fmt.time_unit([ours.p50_ms, theirs.p50_ms if theirs else None])
    for percentile in PERCENTILES:
        yield _Row(
            percentile,
            _percentile(theirs, percentile, unit) if theirs else NOT_CHECKED,
            _percentile(ours, percentile, unit),
            _latency_change(evidence, percentile),
            ("max-latency-regression", "latency-threshold") if percentile == "p50" else ("latency-threshold",),
        )


def _percentile(latency: Latency, percentile: str, unit: str) -> str:
    """p99 never stands without its interval, or the reason why it has none."""
    value: float = getattr(latency, f"{percentile}_ms")
    if percentile != "p99":
        return fmt.ms(value, unit)
    interval = latency.intervals.get("p99")
    if interval is None:
        return f"{fmt.ms(value, unit)} (n = {fmt.count(latency.n)}: too few for an interval)"
    return fmt.ms_interval(value, interval, unit)


def _latency_change(evidence: Evidence, percentile: str) -> str:
    """The paired ratio with its interval; `≈` for a plain ratio of two passes, which has none."""
    c = evidence.comparison
    paired = {"p50": c.p50_ratio, "p99": c.p99_ratio}.get(percentile) if c else None
    if paired:
        return fmt.change_interval(paired)
    head = evidence.head.latency if evidence.head else None
    base = evidence.base.latency if evidence.base else None
    if not (head and base):
        return fmt.NONE
    before: float = getattr(base, f"{percentile}_ms")
    return f"≈ {fmt.change(getattr(head, f'{percentile}_ms') / before)}" if before > 0 else fmt.NONE


def _resource_rows(head: Side, base: Side | None) -> Iterable[_Row]:
    readers: tuple[tuple[str, str, Callable[[Side], float | None], Callable[[float], str]], ...] = (
        ("throughput", "min-throughput", lambda s: s.throughput.samples_per_second if s.throughput else None, fmt.rate),
        ("peak memory", "max-memory", lambda s: s.memory.host_peak_bytes if s.memory else None, fmt.size),
        ("device memory", "", lambda s: s.memory.device_peak_bytes if s.memory else None, fmt.size),
        ("engine size", "max-engine-size", lambda s: s.engine.bytes, fmt.size),
    )
    for label, gate, read, show in readers:
        ours, theirs = read(head), read(base) if base else None
        if ours is None and theirs is None:
            continue
        change = fmt.change(ours / theirs) if ours is not None and theirs else fmt.NONE
        if label == "throughput" and change != fmt.NONE:
            change = f"≈ {change}"
        shown = [fmt.NONE if value is None else show(value) for value in (theirs, ours)]
        yield _Row(label, shown[0], shown[1], change, (gate,))


def _accuracy_rows(evidence: Evidence) -> Iterable[_Row]:
    task, parity = evidence.accuracy.task, evidence.accuracy.parity
    gates = ("max-accuracy-drop", "min-accuracy")
    yield _task_row(task, gates) if task else _Row("accuracy", fmt.NONE, NOT_CHECKED, gates=gates)
    if parity and parity.head:
        yield _Row("error against FP32", _worst(parity.base), _worst(parity.head))


def _task_row(task: TaskMetric, gates: tuple[str, ...]) -> _Row:
    change = parts.metric_change(task)
    if task.drop_from == "reference":
        change += " against FP32"
    base = parts.metric_value(task, task.base.estimate) if task.base else fmt.NONE
    return _Row(parts.metric_word(task), base, parts.metric_value(task, task.head.estimate), change, gates)


def _worst(outputs: Mapping[str, OutputParity] | None) -> str:
    """The largest relative L2 error over all outputs, each side against the FP32 reference of its own model."""
    found = list((outputs or {}).values())
    if any(one.nan > one.reference_nan or one.inf > one.reference_inf for one in found):
        return "NaN or Inf"
    known = [one.relative_l2 for one in found if one.relative_l2 is not None]
    return parts.scientific(max(known)) if known else fmt.NONE


def _limit_cell(gates: Sequence[Gate], row: _Row, limits: Limits) -> Cell:
    """The gates that judge this row: the worst status in front, the limits after it."""
    mine = [g for g in gates[: limits.rows] if g.name in row.gates and _is_about(g, row)]
    if not mine:
        return fmt.NONE
    worst = min((g.status for g in mine), key=_WORST_FIRST.index)
    words = ", ".join(clip(_limit_words(g, row), 60) for g in mine[:3])
    return Mark(worst, f"{words}: {NOT_CHECKED}" if worst == "not-checked" else words)


def _limit_words(gate: Gate, row: _Row) -> str:
    """`≤ 0.5 %`, `≥ 97 %`, `< 50 ms`: what the row does not say itself."""
    if gate.name == "latency-threshold":
        if row.served:
            metric, _, rest = gate.rule.partition(" ")
            return (rest if metric in llm.TIMES else gate.rule).rpartition(" at ")[0]
        return _PERCENTILE.sub("", gate.rule).strip() if row.label in PERCENTILES else gate.rule
    sign = {"max": "≤ ", "min": "≥ "}.get(gate.name[:3], "")
    return f"{sign}{gate.limit or gate.rule}"


def _is_about(gate: Gate, row: _Row) -> bool:
    """`latency-threshold` names its percentile in the rule."""
    if gate.name == "latency-threshold" and row.served:
        metric, _, concurrency = row.served.partition("@")
        words = gate.rule.split()
        asked = words[0] if words[0] in llm.TIMES else "e2e"
        return (asked, words[-1]) == (metric, concurrency)
    if gate.name != "latency-threshold" or row.label not in PERCENTILES:
        return True
    found = _PERCENTILE.search(gate.rule)
    return found is not None and found.group() == row.label
