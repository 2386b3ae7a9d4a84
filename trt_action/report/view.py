"""One evidence, ready to be written down: verdict, table, broken gates with their next step, notes, details."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trt_action.evidence import ErrorInfo, Evidence, Gate
from trt_action.report import format as fmt
from trt_action.report import layers as layer_parts
from trt_action.report import search
from trt_action.report import sections as parts
from trt_action.report.escape import clip
from trt_action.report.headline import Headline, headline, model_name, passes_disagree
from trt_action.report.parts import Limits, Mark, Section, Table
from trt_action.report.table import PERCENTILES, first_table, host_name


@dataclass(frozen=True)
class Problem:
    """A gate that failed or could not be decided."""

    status: Mark
    rule: str
    observed: str
    reason: str
    next_step: str


@dataclass(frozen=True)
class View:
    """One evidence, ready to be written down. Strings are raw."""

    name: str
    headline: Headline
    table: Table | None
    problems: tuple[Problem, ...]
    problems_left_out: int
    error: ErrorInfo | None
    speedup: str
    search: str
    notes: tuple[str, ...]
    notes_left_out: int
    sections: dict[str, Section]
    slower_layers: tuple[str, ...]
    """Where a head that is slower than base loses its time, a line each; empty otherwise."""
    percentiles: tuple[tuple[str, float | None, float], ...]
    """(name, base ms, head ms) for the chart."""
    footer: tuple[str, ...]
    evidence: Evidence


def view(evidence: Evidence, limits: Limits) -> View:
    """Everything that the three renderers show of one evidence."""
    broken = sorted(
        (g for g in evidence.gates if g.status in ("failed", "inconclusive")), key=lambda g: g.status != "failed"
    )
    notes = list(dict.fromkeys(_notes(evidence)))
    error = evidence.error
    if error:
        error = error.model_copy(
            update={
                "title": clip(error.title, limits.name),
                "what": clip(error.what, limits.error),
                "why": clip(error.why, limits.error),
                "fix": clip(error.fix, limits.error),
                "stage": clip(error.stage, limits.name),
            }
        )
    return View(
        name=model_name(evidence, limits.name),
        headline=headline(evidence),
        table=first_table(evidence, limits),
        problems=tuple(_problem(evidence, g, limits) for g in broken[: limits.problems]),
        problems_left_out=max(0, len(broken) - limits.problems),
        error=error,
        speedup=speedup(evidence),
        search=search.line(evidence),
        notes=tuple(clip(note, limits.text) for note in notes[: limits.notes]),
        notes_left_out=max(0, len(notes) - limits.notes),
        sections=parts.sections(evidence, limits),
        slower_layers=slower_layers(evidence),
        percentiles=_percentiles(evidence),
        footer=tuple(clip(one, limits.name) for one in _footer(evidence)),
        evidence=evidence,
    )


def speedup(evidence: Evidence) -> str:
    """`3.41× [3.35, 3.48] the speed of onnxruntime fp32 (cpu) (p50 1.23 ms)`; empty if not measured."""
    found = evidence.speedup
    if found is None:
        return ""
    tail = "" if found.ratio.low > 1 else ": slower than the framework" if found.ratio.high < 1 else ": no clear gain"
    return f"{fmt.times(found.ratio)} the speed of {clip(found.over, 80)} (p50 {fmt.ms(found.baseline_p50_ms)}){tail}"


MOST_LINES = 3


def slower_layers(evidence: Evidence) -> tuple[str, ...]:
    """The layers that cost most where the comparison says `regressed`."""
    diff, comparison = evidence.layer_diff, evidence.comparison
    if diff is None or comparison is None or comparison.verdict != "regressed":
        return ()
    costly = [change for change in layer_parts.chosen(diff, MOST_LINES * 4) if (change.delta_ms or 0.0) > 0]
    return tuple(layer_parts.one_line(change) for change in costly[:MOST_LINES])


def _problem(evidence: Evidence, gate: Gate, limits: Limits) -> Problem:
    return Problem(
        status=Mark(gate.status, clip(gate.name, limits.name)),
        rule=clip(gate.rule, limits.name),
        observed=clip(gate.observed, limits.name),
        reason=clip(gate.reason, limits.text),
        next_step=_next_step(evidence, gate),
    )


_ON_FAILURE = {
    "latency-threshold": "Make the model or its precision faster, or set the limit to what production needs.",
    "max-latency-regression": "See the paired differences in `report.html`; if the slowdown is worth it, allow it with "
    "`max-latency-regression`.",
    "max-accuracy-drop": "Keep sensitive nodes in higher precision (`exclude-nodes`), or calibrate on more samples "
    "or more typical ones.",
    "min-accuracy": "Compare with the FP32 reference below: is it the model, or its precision?",
    "min-throughput": "Try more requests in flight (`concurrency`) or a larger batch, or lower the limit.",
    "max-engine-size": "Use a smaller precision or model, or raise the limit.",
    "max-memory": "Use a smaller batch or precision, or raise the limit.",
    "min-precision-share": "See “Precision achieved”: widen `op-types`, shorten `exclude-nodes`, or lower the share.",
}
_ON_ENDPOINT = {
    "failed-requests": ("See “Served model in detail” for what the server said, and its log.", ""),
    "latency-threshold": ("Make the server or its model faster, or set the limit to what production needs.", ""),
    "max-accuracy-drop": (
        "See which kinds of questions got worse in “Served model in detail”.",
        "Ask more questions in `quality`.",
    ),
    "min-accuracy": (
        "See which kinds of questions are wrong in “Served model in detail”.",
        "Ask more questions in `quality`.",
    ),
    "min-throughput": ("Try more `concurrencies`, a larger batch in the server, or lower the limit.", ""),
}
"""Of a served model: when the gate failed, and when it could not be decided."""

_ON_DOUBT = {
    "max-accuracy-drop": "Give more labelled samples in `validation-data`.",
    "min-accuracy": "Give more labelled samples in `validation-data`.",
}


def _next_step(evidence: Evidence, gate: Gate) -> str:
    if evidence.llm is not None and gate.name in _ON_ENDPOINT:
        return _ON_ENDPOINT[gate.name][gate.status != "failed"]
    if gate.status == "failed":
        return _ON_FAILURE.get(gate.name, "")
    if gate.name == "max-latency-regression" and evidence.comparison:
        more = parts.more_needed(evidence.comparison)
        step = "Raise `max-seconds` or use a quieter host"
        return f"{step} ({more})." if more else f"{step}."
    return _ON_DOUBT.get(gate.name, "")


def _notes(evidence: Evidence) -> Iterable[str]:
    if evidence.base_note:
        yield evidence.base_note
    unchecked: dict[str, list[str]] = {}
    for gate in evidence.gates:
        if gate.status == "not-checked":
            unchecked.setdefault(gate.reason, []).append(gate.name)
    for reason, names in list(unchecked.items())[:20]:
        yield f"Not checked: {', '.join(clip(name, 60) for name in names[:10])} – {reason}"
    if evidence.accuracy.not_checked and evidence.accuracy.not_checked not in unchecked:
        yield f"Accuracy not checked: {evidence.accuracy.not_checked}"
    if passes_disagree(evidence):
        yield (
            "The separate latency passes (percentiles in the table) disagree with the interleaved comparison. The "
            "comparison decides: the host drifted between the passes."
        )
    said = {f"`{name}` is not checked" for names in unchecked.values() for name in names}
    yield from (warning for warning in _warnings(evidence) if not any(warning.startswith(words) for words in said))
    yield from evidence.accuracy.notes
    for role, side in (("head", evidence.head), ("base", evidence.base)):
        if side and side.latency:
            yield from (f"Latency of {role}: {note}" for note in side.latency.notes)
    if evidence.source.dirty:
        yield "The work tree had uncommitted changes."


def _warnings(evidence: Evidence) -> list[str]:
    return [*(evidence.comparison.warnings if evidence.comparison else ()), *evidence.warnings]


def _percentiles(evidence: Evidence) -> tuple[tuple[str, float | None, float], ...]:
    head = evidence.head.latency if evidence.head else None
    base = evidence.base.latency if evidence.base else None
    if head is None:
        return ()
    return tuple((p, getattr(base, f"{p}_ms") if base else None, getattr(head, f"{p}_ms")) for p in PERCENTILES)


def _footer(evidence: Evidence) -> Iterable[str]:
    yield model_name(evidence)
    source = evidence.source
    if source.commit:
        measured = source.measured_commit
        merged = f" (measured as merge commit {measured[:10]})" if measured and measured != source.commit else ""
        yield f"commit {source.commit[:10]}{merged}"
    if evidence.base and evidence.base.label:
        yield f"base {clip(evidence.base.label, 60)}"
    if evidence.head:
        engine = evidence.head.engine
        yield f"{engine.precision} on {engine.backend} {engine.backend_version}"
    if evidence.llm:
        yield f"{clip(evidence.llm.head.model, 60)} at {clip(evidence.llm.head.label, 60)}"
        if evidence.llm.base:
            yield f"base {clip(evidence.llm.base.model, 60)} at {clip(evidence.llm.base.label, 60)}"
    if evidence.fingerprint:
        yield host_name(evidence)
    if evidence.stages:
        yield f"{fmt.seconds(sum(s.seconds for s in evidence.stages))} in all"
    yield f"trt-action {evidence.tool.version}"
