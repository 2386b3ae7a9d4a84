"""Rows of the table of settings for the gates: what must hold."""

from __future__ import annotations

from trt_action.settings.option import Option

GATE_OPTIONS: tuple[Option, ...] = (
    Option(
        "latency-threshold",
        "Gates",
        None,
        "RULE",
        "Absolute limit: `p99 < 50ms`; a bare `50` is p99 in ms. Of an endpoint: `ttft p99 < 200ms`, "
        "`itl p50 < 20ms`, `tpot`, `e2e`, each also `at 4` requests in flight.",
    ),
    Option(
        "max-latency-regression",
        "Gates",
        None,
        "PERCENT",
        "Fail when head is surely slower than base by more than this; unset: by more than `margin`.",
    ),
    Option(
        "max-accuracy-drop",
        "Gates",
        None,
        "DROP",
        "Largest loss of the task metric: `0.5%` (points) or `0.5% relative`; against base, or the reference.",
    ),
    Option("min-accuracy", "Gates", None, "PERCENT", "Smallest task metric."),
    Option(
        "min-throughput",
        "Gates",
        None,
        "RATE",
        "Smallest throughput: `2000/s` (samples), or `1000tok/s` (output tokens of an endpoint).",
    ),
    Option("max-engine-size", "Gates", None, "SIZE", "Largest engine, e.g. `200MB`."),
    Option("max-memory", "Gates", None, "SIZE", "Largest peak memory of the serving process, e.g. `4GB`."),
    Option(
        "on-inconclusive",
        "Gates",
        "pass",
        "pass|fail",
        "What an inconclusive gate does to the exit code.",
        ("pass", "fail"),
    ),
)
