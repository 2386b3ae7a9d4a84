"""The search for a recipe: one line for the comment, the trials for the report, and what to commit."""

from __future__ import annotations

import math

import yaml

from trt_action.evidence import Evidence
from trt_action.report import format as fmt
from trt_action.report.escape import clip
from trt_action.report.parts import Cell, Code, Limits, Mark, Section, Table
from trt_action.search_records import Search

MOST_INLINE = 10
"""Names of nodes in one line; more of them are a table."""


def of(evidence: Evidence) -> Search | None:
    return evidence.head.engine.search if evidence.head else None


def line(evidence: Evidence) -> str:
    """`int8 with 1 of 6 layers kept in higher precision (conv4): 2 recipes tried in 3.3 s`; empty without a search."""
    found = of(evidence)
    if found is None:
        return ""
    tried = f"{fmt.plural(len(found.trials), 'recipe')} tried in {fmt.seconds(found.seconds)}"
    if not found.found:
        return f"nothing that was tried holds the accuracy gates; built as {found.precision} ({tried})"
    if not found.kept_layers:
        return f"{found.precision} holds as it is ({tried})"
    names = [clip(name, 40) for name in found.kept[:3]]
    more = ", …" if len(found.kept) > len(names) else ""
    kept = f"{fmt.count(found.kept_layers)} of {fmt.plural(found.layers, 'layer')} kept in higher precision"
    return f"{found.precision} with {kept} ({', '.join(names)}{more}); {tried}"


def to_commit(found: Search) -> list[str]:
    """Lines for `.trt-action.yml` that make this recipe without a search."""
    lines = [f"precision: {found.precision}"]
    if found.exclude_nodes:
        lines += ["exclude-nodes:", *(f"  - {_quoted(name)}" for name in found.exclude_nodes)]
    return lines


def _quoted(name: str) -> str:
    """In YAML's own quotes and in ASCII: JSON's pairs of surrogates mean something else in YAML. A runner that reads its
    log finds no command in it."""
    quoted: str = yaml.safe_dump(name, default_style='"', width=math.inf).rstrip("\n")
    return quoted.replace("::", r":\x3a").replace("##[", r"#\x23[")


def section(evidence: Evidence, limits: Limits) -> Section | None:
    found = of(evidence)
    if found is None:
        return None
    lines = [
        f"A recipe holds when: {clip(found.rule, limits.text)}. Decided on {fmt.plural(found.samples, 'sample')} "
        f"({found.data} data), by the prepared graph on the CPU without graph optimisation, against the FP32 reference."
    ]
    tables = [_trials(found, limits)]
    names = f"[{', '.join(_quoted(name) for name in found.exclude_nodes)}]"
    if found.found and len(found.exclude_nodes) <= MOST_INLINE and len(names) <= limits.text:
        excluded = f", `exclude-nodes: {names}`" if found.exclude_nodes else ""
        lines.append(f"To commit, instead of searching again: `precision: {found.precision}`{excluded}.")
    elif found.found:
        lines.append(
            f"To commit, instead of searching again: `precision: {found.precision}` and these `exclude-nodes`."
        )
        rows = tuple((Code(name),) for name in found.exclude_nodes[: limits.rows])  # whole: half a name fits no node
        tables.append(Table(("exclude-nodes",), rows, left_out=len(found.exclude_nodes) - len(rows)))
    if found.sensitivity:
        tables.append(_sensitivity(found, limits))
    return Section("search", f"Search for a recipe ({line(evidence)})", tuple(lines), tuple(tables))


def _trials(found: Search, limits: Limits) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            f"{trial.precision}, {fmt.plural(trial.kept, 'layer')} kept" if trial.kept else trial.precision,
            Mark("passed" if trial.holds else "failed", "holds" if trial.holds else "does not hold"),
            fmt.NONE if trial.metric is None else fmt.number(trial.metric, 4),
            fmt.NONE if trial.error is None else fmt.number(trial.error),
            fmt.share(trial.share),
            fmt.seconds(trial.seconds),
            clip(trial.note, limits.name),
        )
        for trial in found.trials[: limits.rows]
    ]
    columns = ("recipe", "", "metric", "largest error", "share", "time", "")
    return Table(columns, tuple(rows), left_out=len(found.trials) - len(rows))


def _sensitivity(found: Search, limits: Limits) -> Table:
    kept = set(found.kept)
    rows: list[tuple[Cell, ...]] = [
        (
            Code(clip(layer.name, limits.name)),
            fmt.NONE if layer.error is None else fmt.number(layer.error),
            "kept" if layer.name in kept else "",
        )
        for layer in found.sensitivity[: limits.rows]
    ]
    columns = ("layer", "error that it alone causes", "")
    return Table(columns, tuple(rows), left_out=len(found.sensitivity) - len(rows))
