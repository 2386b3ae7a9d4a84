"""What a run's evidence says to a workflow: outputs and annotations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action.evidence import ErrorInfo, Evidence, Gate
from trt_action.judge import overall

if TYPE_CHECKING:
    from trt_action.github import commands

OUTPUTS: Mapping[str, str] = {
    "outcome": "`passed`, `failed` or `inconclusive`; of several models the worst.",
    "verdict": "Head against base: `improved`, `within-noise`, `regressed` or `inconclusive`; empty without a base.",
    "p50-ms": "Median latency of head, in ms.",
    "p99-ms": "99th percentile of head's latency, in ms.",
    "speedup": "How many times faster than the framework's FP32 on the same device; empty for fp32.",
    "accuracy": "Task metric of head, e.g. 0.9712; empty without validation data.",
    "accuracy-drop": "Loss of the task metric against base (or the reference), in the metric's own unit.",
    "engine": "SHA-256 of the engine that was measured.",
    "image": "Published image, without tag; empty if nothing was published.",
    "digest": "Digest of the published image; empty if nothing or more than one was published (then see `json`).",
    "tags": "Tags of the published image with its name in front, one per line; empty if nothing was published.",
    "labels": "Labels of the published image, one `key=value` per line; empty if nothing was published.",
    "deployed": "What became of the workload: `deployed`, `unchanged` or `would-deploy`; empty if none was deployed to.",
    "previous-image": "Image that the workload had before; empty if none was deployed to.",
    "evidence": "Path of the evidence, relative to the workspace; one line per model.",
    "report": "Path of the HTML report, relative to the workspace.",
    "comment-url": "Address of the pull-request comment; empty if there is none.",
    "json": "All of the above as one JSON object, with lists `models` (with several, the single numbers are empty) and `images`.",
}
"""Outputs of the action: `action.yml` and the README's table come from here."""

_PLACE = re.compile(r"([\w./ -]+), line (\d+)")


@dataclass(frozen=True)
class Written:
    """Files of a run, relative to the workspace."""

    evidence: tuple[Path, ...]
    report: Path | None = None


@dataclass(frozen=True)
class Shipped:
    """What a job has put into a registry: outputs by name, and Markdown for the job summary."""

    outputs: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""


def outputs(
    evidences: Sequence[Evidence], written: Written, comment_url: str | None, shipped: Shipped | None = None
) -> dict[str, Any]:
    """Every output of the action, None where there is none. Numbers of one model only: several are in `json`."""
    models = [{"name": _name(one), **_numbers(one)} for one in evidences]
    single = _numbers(evidences[0]) if len(evidences) == 1 else dict.fromkeys(_numbers(None))
    values: dict[str, Any] = dict.fromkeys(OUTPUTS)
    values |= single
    values["outcome"] = overall(evidences) if evidences else None
    values["evidence"] = "\n".join(map(str, written.evidence)) or None
    values["report"] = str(written.report) if written.report else None
    values["comment-url"] = comment_url
    there = shipped.outputs if shipped else {}
    values |= {name: value for name, value in there.items() if name in OUTPUTS}
    values["json"] = {name: value for name, value in values.items() if name != "json"} | {"models": models}
    values["json"] |= {"images": there.get("images", [])}
    return values


def _name(evidence: Evidence) -> str | None:
    if evidence.llm is not None:
        return str(evidence.settings.get("name") or evidence.llm.head.model)
    return str(evidence.settings.get("name") or "") or (evidence.model.name if evidence.model else None)


def _numbers(one: Evidence | None) -> dict[str, Any]:
    latency = one.head.latency if one and one.head else None
    task = one.accuracy.task if one else None
    return {
        "outcome": one.outcome if one else None,
        "verdict": one.comparison.verdict if one and one.comparison else None,
        "p50-ms": round(latency.p50_ms, 6) if latency else None,
        "p99-ms": round(latency.p99_ms, 6) if latency else None,
        "speedup": one.speedup.ratio.estimate if one and one.speedup else None,
        "accuracy": task.head.estimate if task else None,
        "accuracy-drop": task.drop.estimate if task and task.drop else None,
        "engine": one.head.engine.sha256 if one and one.head else None,
    }


def annotate(
    notes: commands.Annotations, one: Evidence, workspace: Path, config: Path | None, *, report_only: bool
) -> None:
    """What a reader of the pull request must see beside the code: an error, broken gates, undecided ones, warnings."""
    name = _name(one) or "trt-action"
    if one.error:
        annotate_error(notes, one.error, workspace)
    for gate in one.gates:
        if gate.status in ("failed", "inconclusive"):
            line = _line_of(gate, config)
            notes.add(
                "warning" if gate.status == "inconclusive" or report_only else "error",
                f"{gate.rule}: {gate.observed} ({gate.status}). {gate.reason}",
                title=f"{name}: {gate.name} {gate.status}",
                file=_relative(config, workspace) if line else None,
                line=line,
            )
    for warning in one.warnings:
        notes.add("warning", warning, title=name)


def annotate_error(notes: commands.Annotations, error: ErrorInfo, workspace: Path) -> None:
    """What, why and next step; beside the line of the config file if the message names one."""
    place = _PLACE.search(error.what)
    file, line = (place[1].strip(), int(place[2])) if place else (None, None)
    there = file is not None and (workspace / file).is_file()
    text = " ".join(part for part in (error.what, error.why, error.fix) if part)
    notes.add("error", text, title=error.title, file=file if there else None, line=line if there else None)


def _line_of(gate: Gate, config: Path | None) -> int | None:
    """The line of the config file that sets the gate."""
    if config is None:
        return None
    try:
        lines = config.read_text(errors="replace").splitlines()
    except OSError:
        return None
    setting = re.compile(rf"\s*['\"]?{re.escape(gate.name)}['\"]?\s*[:=]")
    return next((number for number, text in enumerate(lines, 1) if setting.match(text)), None)


def _relative(path: Path | None, workspace: Path) -> Path | None:
    return path.relative_to(workspace) if path and path.is_relative_to(workspace) else None
