"""A served language model in the report: the first table, one table per number of requests in flight, what answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trt_action.evidence import Evidence
from trt_action.llm_records import Lengths, LlmLevel, LlmReport, LlmRun, Times
from trt_action.report import format as fmt
from trt_action.report.escape import clip
from trt_action.report.parts import Cell, Limits, Section, Table

TIMES = {"ttft": "first text", "itl": "between texts", "tpot": "per output token", "e2e": "whole answer"}
PERCENTILES = ("p50", "p90", "p95", "p99")


def sides(run: LlmRun) -> list[tuple[str, LlmReport]]:
    """Base before head, as in every table."""
    return [(role, report) for role, report in (("base", run.base), ("head", run.head)) if report]


def levels(run: LlmRun) -> list[int]:
    """Numbers of requests in flight that head was measured at."""
    return [level.concurrency for level in run.head.levels]


def at(report: LlmReport | None, concurrency: int) -> LlmLevel | None:
    """What one side did at a number of requests in flight."""
    return next((one for one in report.levels if one.concurrency == concurrency), None) if report else None


def line(evidence: Evidence) -> str:
    """`p50 of a whole answer 412 ms, first text 31 ms (1 in flight); 812 tok/s (16 in flight)`; empty without times."""
    run = evidence.llm
    if run is None or not run.head.levels:
        return ""
    least, most = run.head.levels[0], run.head.levels[-1]
    found = []
    if least.e2e and least.ttft:
        found.append(
            f"whole answer p50 {fmt.ms(least.e2e.p50_ms)}, first text {fmt.ms(least.ttft.p50_ms)} "
            f"({least.concurrency} in flight)"
        )
    found.append(f"{tokens(most.output_tokens_per_second)} ({most.concurrency} in flight)")
    return "; ".join(found)


def tokens(per_second: float) -> str:
    """`812 tok/s`."""
    return f"{fmt.number(per_second)} tok/s"


Row = tuple[str, str, str, str, int, str]
"""Label, base, head, difference, requests in flight, which time (or `throughput`)."""


def rows(run: LlmRun) -> Iterable[Row]:
    """For the first table: p50 and p99 of each time, and throughput, by requests in flight."""
    for concurrency in levels(run):
        ours, theirs = at(run.head, concurrency), at(run.base, concurrency)
        if ours is None:
            continue
        for metric in TIMES:
            head: Times | None = getattr(ours, metric)
            base: Times | None = getattr(theirs, metric) if theirs else None
            if head is None:
                continue
            unit = fmt.time_unit([head.p99_ms, base.p99_ms if base else None])
            label = f"{TIMES[metric]}, p50 / p99 ({concurrency} in flight)"
            change = _change(head.p50_ms, base.p50_ms if base else None)
            yield label, _pair(base, unit), _pair(head, unit), change, concurrency, metric
        rate = theirs.output_tokens_per_second if theirs else None
        shown = fmt.NONE if rate is None else tokens(rate)
        change = _change(ours.output_tokens_per_second, rate)
        label = f"throughput ({concurrency} in flight)"
        yield label, shown, tokens(ours.output_tokens_per_second), change, concurrency, "throughput"


def _pair(times: Times | None, unit: str) -> str:
    return fmt.NONE if times is None else f"{fmt.ms(times.p50_ms, unit)} / {fmt.ms(times.p99_ms, unit)}"


def _change(head: float, base: float | None) -> str:
    return f"≈ {fmt.change(head / base)}" if base else fmt.NONE


def section(evidence: Evidence, limits: Limits) -> Section | None:
    """Everything that was measured: a table per number of requests in flight, lengths, and what answered."""
    run = evidence.llm
    if run is None:
        return None
    tables = [_level_table(run, concurrency) for concurrency in levels(run)[: limits.rows]]
    tables.append(_server_table(run, limits))
    lines = [
        "A closed loop: each of the requests in flight is answered to its end before the next one. Times are the client's. "
        "Brackets: 95 % interval (order statistics; between texts a bootstrap over answers). ≈ in the first table is the "
        "plain ratio of two passes; whether head is slower is decided by the interleaved comparison."
    ]
    for role, report in sides(run):
        lines += [clip(f"{role}: {note}", limits.text) for note in report.notes[: limits.notes]]
    return Section("llm", "Served model in detail", tuple(lines), tuple(tables))


def _level_table(run: LlmRun, concurrency: int) -> Table:
    found = [(role, level) for role, report in sides(run) if (level := at(report, concurrency))]
    cells: list[tuple[Cell, ...]] = []
    for metric, word in TIMES.items():
        times: list[Times | None] = [getattr(level, metric) for _, level in found]
        if not any(times):
            continue
        unit = fmt.time_unit([one.p99_ms for one in times if one])
        cells += [(f"{word} ({metric}) {name}", *(_interval(one, name, unit) for one in times)) for name in PERCENTILES]
    readers: Sequence[tuple[str, Callable[[LlmLevel], str]]] = (
        ("output tokens", lambda x: tokens(x.output_tokens_per_second)),
        ("requests", lambda x: f"{fmt.number(x.requests_per_second)}/s"),
        ("answered", lambda x: fmt.count(x.requests)),
        ("failed", _failed),
        ("time", lambda x: fmt.seconds(x.seconds)),
    )
    cells += [(word, *(read(level) for _, level in found)) for word, read in readers]
    return Table((f"{concurrency} in flight", *(role for role, _ in found)), tuple(cells), numbers=True)


def _interval(times: Times | None, name: str, unit: str) -> str:
    if times is None:
        return fmt.NONE
    interval = next((value for key, value in times.intervals.items() if key == name), None)
    shown = fmt.ms_interval(getattr(times, f"{name}_ms"), interval, unit)
    return shown if interval or name != "p99" else f"{shown} (too few for an interval)"


def _failed(level: LlmLevel) -> str:
    return ", ".join(f"{fmt.count(n)} {clip(kind, 30)}" for kind, n in level.failed.items()) or "0"


def _server_table(run: LlmRun, limits: Limits) -> Table:
    found = sides(run)
    rows: list[tuple[Cell, ...]] = [
        ("endpoint", *(clip(report.label, limits.name) for _, report in found)),
        ("model", *(clip(report.model, limits.name) for _, report in found)),
        ("server", *(clip(report.server, 60) or fmt.NONE for _, report in found)),
    ]
    if any(report.image for _, report in found):
        rows.append(("image", *(clip(report.image or fmt.NONE, limits.name) for _, report in found)))
    if run.prompts:
        rows.append(("prompts in the file", *(_lengths(run.prompts) for _ in found)))
    rows += [
        ("prompts as sent", *(_lengths(report.prompt_lengths) for _, report in found)),
        ("answers", *(_lengths(report.output_lengths) for _, report in found)),
        ("ended early", *(fmt.share(report.ended_early) for _, report in found)),
    ]
    kinds = sorted({kind for _, report in found for kind in report.quality})
    for kind in kinds:
        scores = [report.quality.get(kind) for _, report in found]
        cells = (f"{fmt.count(one.right)} of {fmt.count(one.questions)}" if one else fmt.NONE for one in scores)
        rows.append((f"right, {clip(kind, 30)}", *cells))
    if run.same_answers is not None:
        rows.append(
            (
                "same answers as base",
                *(fmt.share(run.same_answers) if role == "head" else fmt.NONE for role, _ in found),
            )
        )
    return Table(("", *(role for role, _ in found)), tuple(rows))


def _lengths(found: Lengths | None) -> str:
    """`min 12, p50 80, p90 210, max 400 tokens (64 of them)`."""
    if found is None:
        return fmt.NONE
    values = ", ".join(f"{name} {fmt.count(getattr(found, name))}" for name in ("min", "p50", "p90", "max"))
    return f"{values} {found.unit} ({fmt.count(found.n)} of them)"
