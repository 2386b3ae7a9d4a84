"""Which rules hold? Each rule becomes one gate; the gates decide the outcome, and the outcome the exit code."""

from __future__ import annotations

from collections.abc import Sequence

from trt_action.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_PASSED
from trt_action.evidence import Accuracy, Comparison, Evidence, Gate, GateStatus, Outcome, Side
from trt_action.judge import accuracy as right
from trt_action.judge import endpoint, latency, resources
from trt_action.llm_records import LlmRun
from trt_action.settings import Settings

__all__ = ["exit_code", "exit_code_of_all", "judge", "judge_endpoint", "outcome", "overall"]

_ALWAYS_THERE = frozenset({"finite-outputs", "failed-requests"})
_OF_TIMES = frozenset({"latency-threshold", "max-latency-regression", "min-throughput"})


def judge(
    settings: Settings,
    *,
    head: Side,
    base: Side | None,
    comparison: Comparison | None,
    accuracy: Accuracy,
    doubt: str = "",
) -> list[Gate]:
    """Every rule that was asked for, and those that always hold: not slower than base, finite outputs, the precision
    really reached. A rule without data is `not-checked`, never passed.

    Args:
        base: None where head is judged alone.
        comparison: None where head and base were not compared.
        doubt: why no time of this run can be trusted (evidence.Telemetry): then no rule about times is decided.
    """
    gates = [
        *latency.regression(settings, base is not None, comparison),
        *latency.thresholds(settings, head),
        *right.max_accuracy_drop(settings, accuracy),
        *right.min_accuracy(settings, accuracy),
        *right.finite_outputs(accuracy),
        *resources.min_precision_share(settings, head),
        *resources.min_throughput(settings, head),
        *resources.max_engine_size(settings, head),
        *resources.max_memory(settings, head),
    ]
    return [_doubted(gate, doubt) if doubt and gate.name in _OF_TIMES else gate for gate in gates]


def judge_endpoint(settings: Settings, run: LlmRun, comparison: Comparison | None, accuracy: Accuracy) -> list[Gate]:
    """The same for a served language model; that every request is answered always holds."""
    return [
        *latency.regression(settings, run.base is not None, comparison),
        *endpoint.thresholds(settings, run.head),
        *endpoint.min_throughput(settings, run.head),
        *endpoint.failed_requests(run.head, run.base),
        *right.max_accuracy_drop(settings, accuracy),
        *right.min_accuracy(settings, accuracy),
    ]


def _doubted(gate: Gate, doubt: str) -> Gate:
    if gate.status == "not-checked":
        return gate
    return gate.model_copy(update={"status": "inconclusive", "reason": f"{doubt} {gate.reason}"[:20_000]})


def outcome(gates: Sequence[Gate], comparison: Comparison | None) -> Outcome:
    """Any gate failed: failed. Else any inconclusive, or nothing decided: inconclusive. Else passed.

    What is always there alone decides nothing where other rules were there and none could be checked. A comparison
    without its gate (two engines side by side, no settings) counts by its verdict.
    """
    statuses: list[GateStatus] = [gate.status for gate in gates if gate.name not in _ALWAYS_THERE]
    if comparison is not None and not any(gate.name == "max-latency-regression" for gate in gates):
        statuses.append(latency.by_verdict(comparison))
    statuses = statuses or [gate.status for gate in gates]
    if any(gate.status == "failed" for gate in gates) or "failed" in statuses:
        return "failed"
    decided = any(status != "not-checked" for status in statuses)
    return "passed" if decided and "inconclusive" not in statuses else "inconclusive"


def exit_code(result: Evidence | Outcome, on_inconclusive: str) -> int:
    """0 passed, 1 failed, 3 inconclusive where `on-inconclusive` is `fail` (else 0); an error has its own code.

    Args:
        result: the outcome, or the evidence of a run, which may hold an error instead.
    """
    if isinstance(result, Evidence):
        if result.error is not None:
            return result.error.exit_code
        result = result.outcome
    if result == "failed":
        return EXIT_GATE_FAILED
    if result == "inconclusive" and on_inconclusive == "fail":
        return EXIT_INCONCLUSIVE
    return EXIT_PASSED


def overall(evidences: Sequence[Evidence]) -> Outcome:
    """Failed if any run failed, else inconclusive if any is, else passed."""
    outcomes = {one.outcome for one in evidences}
    return "failed" if "failed" in outcomes else "inconclusive" if "inconclusive" in outcomes else "passed"


def exit_code_of_all(evidences: Sequence[Evidence], on_inconclusive: Sequence[str]) -> int:
    """An error's own code before 1, 1 before 3, 3 before 0; each run by its own `on-inconclusive`."""
    codes = [exit_code(one, rule) for one, rule in zip(evidences, on_inconclusive, strict=True)]
    return max(codes, key=lambda code: (code not in (0, 1, 3), code == 1, code == 3, code))
