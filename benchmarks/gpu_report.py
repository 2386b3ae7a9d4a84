"""Tables of what benchmarks/gpu.py has recorded."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sections
from trt_action.evidence import DuetSeries
from trt_action.measure.pairs import block_median, from_series

Record = dict[str, Any]
GOAL = 1.01


def read(files: Iterable[Path]) -> list[Record]:
    """All records; half a line is what a run leaves that is killed while it writes."""
    found = []
    for file in files:
        for line in file.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def one_line(record: Record) -> str:
    """For the terminal, while it goes on."""
    if "error" in record:
        return "FAILED: " + " | ".join(record["error"].strip().splitlines()[-3:])
    if record["part"] == "verdict":
        ratio = record["p50_ratio"]
        seen = f"{ratio['estimate'] - 1:+.2%}" if ratio else "no ratio"
        return f"{record['verdict']} {seen}, {record['pairs']} pairs, {record['seconds']:.1f} s"
    ratio, latency = record["ratios"]["latency"]["estimate"], record["latency"]["with"]
    return f"bare {record['bare_p50_ms']:.3f} ms, ours x {ratio:.4f}, with copies p50 {latency['p50_ms']:.3f} ms"


def report(records: list[Record], path: Path | None) -> str:
    """Markdown; with `path`, written into its sections."""
    bodies = {}
    if overheads := [record for record in records if record["part"] == "overhead"]:
        bodies["gpu-overhead"] = overhead(overheads)
    if trials := [record for record in records if record["part"] == "verdict"]:
        bodies["gpu-verdict"] = verdict(trials)
    for name, body in bodies.items():
        if path:
            sections.write(path, name, body)
    return "\n\n".join(bodies.values())


def overhead(records: list[Record]) -> str:
    latest = {record["case"]: record for record in records}  # a case that was run again
    good = [record for record in latest.values() if "error" not in record]
    failed = [record for record in latest.values() if "error" in record]
    fp32 = {(r["model"], r["batch"]): r["bare_p50_ms"] for r in good if r["precision"] == "fp32"}
    ratios = [r["ratios"][kind] for r in good for kind in ("block", "latency")]
    worst = max(ratios, key=lambda one: one["estimate"])
    reached = "reached" if worst["estimate"] <= GOAL else "missed"
    rows = [_row(record, fp32.get((record["model"], record["batch"]))) for record in good]
    text = [
        "## On a GPU: what the measuring loop costs, and what the precisions bring",
        f"`python benchmarks/gpu.py overhead` on {_host(records)}, random weights. `bare`: p50 of a plain "
        "`run_with_iobinding` loop on device memory. `ours`: our p50 without copies over the same session, interleaved in "
        f"one process (95 % interval). Goal ≤ {GOAL}; worst {_interval(worst)}: {reached}. The "
        "other columns are the product's own passes in worker processes; parts of an inference by CUDA events.",
        sections.table(
            [
                "model", "batch", "engine", "bare p50 / p99, ms", "over fp32", "ours ÷ bare", "p50 with copies, ms",
                "H2D + compute + D2H, ms", "enqueue, ms", "device memory, MB",
            ],
            rows,
        ),
    ]  # fmt: skip
    if failed:
        text.append("Not measured: " + "; ".join(f"{r['case']} ({one_line(r)[:200]})" for r in failed) + ".")
    return "\n\n".join(text)


def _interval(ratio: dict[str, float]) -> str:
    return f"{ratio['estimate']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]"


def _row(r: Record, fp32: float | None) -> list[str]:
    shipped = r["latency"]["with"]
    parts = shipped["device"]
    ratio = r["ratios"]["latency"]
    enqueue = parts["enqueue"]
    memory = r["memory"]["device_peak_bytes"]
    return [
        r["model"],
        str(r["batch"]),
        r["precision"] + (" + CUDA graph" if r["cuda_graph"] else ""),
        f"{r['bare_p50_ms']:.3f} / {r['bare_p99_ms']:.3f}",
        f"{fp32 / r['bare_p50_ms']:.2f}×" if fp32 else "–",
        _interval(ratio),
        f"{shipped['p50_ms']:.3f}",
        " + ".join(f"{parts[name]['median_ms']:.3f}" for name in ("h2d", "compute", "d2h")),
        f"{enqueue['median_ms']:.3f}" if enqueue else "–",
        f"{memory / 1e6:,.0f}" if memory else "–",
    ]


def verdict(trials: list[Record]) -> str:
    groups: dict[tuple[str, int], list[Record]] = {}
    for trial in sorted(trials, key=lambda t: (_net(t), t["effect"])):
        groups.setdefault((_net(trial), trial["effect"]), []).append(trial)
    return "\n\n".join(
        [
            "## On a GPU: can the verdict be trusted?",
            f"`python benchmarks/gpu.py verdict` on {_host(trials)}, {len(trials)} trials of the product's own `compare` "
            "with its default margin of 0.5 %, pinned to one CPU. `+n %` = n more layers on a chain of 100 convolutions or matrix "
            "products. A set is three fresh processes; sets differ: standard deviation of the sets' medians of head/base.",
            sections.table(
                [
                    "net", "effect", "measured effect", "trials", "regressed", "within noise", "improved",
                    "inconclusive", "median time", "longest", "sets", "sets differ",
                ],
                [_verdict_row(chosen) for chosen in groups.values()],
            ),
        ]
    )  # fmt: skip


def _net(trial: Record) -> str:
    return f"{trial['net']} + CUDA graph" if trial.get("cuda_graph") else str(trial["net"])


def _verdict_row(chosen: list[Record]) -> list[str]:
    ratios = [t["p50_ratio"]["estimate"] for t in chosen if t["p50_ratio"]]
    seconds = [t["seconds"] for t in chosen]
    shares = [
        f"{sum(t['verdict'] == word for t in chosen) / len(chosen):.0%}"
        for word in ("regressed", "within-noise", "improved", "inconclusive")
    ]
    effect = chosen[0]["effect"]
    return [
        _net(chosen[0]),
        "A/A" if effect == 0 else f"+{effect} %",
        f"{statistics.median(ratios) - 1:+.2%}" if ratios else "–",
        str(len(chosen)),
        *shares,
        f"{statistics.median(seconds):.1f} s",
        f"{max(seconds):.1f} s",
        f"{statistics.median(len(t['units']) for t in chosen):g}",
        _spread(chosen),
    ]


def _spread(chosen: list[Record]) -> str:
    """Median over the trials; a trial with fewer than three sets says nothing."""
    found = []
    for trial in chosen:
        if trial.get("series"):
            recording = from_series(DuetSeries.model_validate(trial["series"]))
            d, unit = recording.main.differences(block_median), recording.main.unit[recording.main.usable()]
            medians = [float(np.median(d[unit == index])) for index in np.unique(unit)]
            if len(medians) > 2:
                found.append(statistics.stdev(medians))
    return f"{statistics.median(found):.2%}" if found else "–"


def _host(records: list[Record]) -> str:
    host = records[-1]["host"]
    return f"{host['gpu']}, CUDA {host['cuda']}, onnxruntime {host['onnxruntime']}, {host['binding']}"
