"""Gates on rightness: the task metric on labelled data, and outputs that are numbers at all."""

from __future__ import annotations

import math

from trt_action.evidence import Accuracy, Estimate, Gate, GateStatus, OutputParity, TaskMetric
from trt_action.judge import words
from trt_action.settings import Settings
from trt_action.settings.fields import METRICS
from trt_action.settings.llm_options import ENDPOINT
from trt_action.settings.rules import AccuracyDrop
from trt_action.settings.values import decimal

_ROUNDING = 1e-9
"""0.97 − 0.965 is 0.0050000000000000044: a loss that equals the limit is not above it."""


def min_accuracy(settings: Settings, accuracy: Accuracy) -> list[Gate]:
    """`min-accuracy`: head's metric against the limit, by the value; the interval is in the reason.

    The value decides and not the interval, because the limit is a promise about this data set ("97 % on our
    validation data"), not about all data in the world.
    """
    asked, task = settings.min_accuracy, accuracy.task
    if asked is None:
        return []
    share = settings.metric in METRICS or asked.percent
    limit = words.percent(asked.value) if share else decimal(asked.value)
    name, rule = "min-accuracy", f"{_metric_word(settings)} ≥ {limit}"
    if task is None:
        return [_not_checked(name, rule, limit, accuracy)]
    observed = words.metric_interval(task.head, asked.value, fraction=share)
    if not task.higher_is_better:
        reason = "The metric says that smaller is better, so a smallest value means nothing: use `max-accuracy-drop`."
        return [Gate(name=name, rule=rule, observed=observed, limit=limit, status="inconclusive", reason=reason)]
    status: GateStatus = "passed" if task.head.estimate >= asked.value - _ROUNDING else "failed"
    reason = f"Judged by the value on {task.samples} labelled samples; {_interval_words(task, asked.value, share)}."
    return [Gate(name=name, rule=rule, observed=observed, limit=limit, status=status, reason=reason)]


def _metric_word(settings: Settings) -> str:
    if settings.backend == ENDPOINT:
        return "quality"
    return settings.metric if settings.metric in METRICS else "metric"


def _interval_words(task: TaskMetric, limit: float, share: bool) -> str:
    head = task.head
    if head.low == head.high:
        return "the metric gives no interval"
    low, high = (words.share(v, limit) if share else words.metric_value(v, limit) for v in (head.low, head.high))
    return f"on data of the same kind it would lie between {low} and {high} ({words.percent(head.confidence)})"


def max_accuracy_drop(settings: Settings, accuracy: Accuracy) -> list[Gate]:
    """`max-accuracy-drop`: the loss against base, or against the FP32 reference if there is no base.

    - observed loss ≤ limit: passed; the reason says so when the interval reaches beyond the limit;
    - observed loss > limit, and its paired interval lies above 0 (or there is none): failed;
    - observed loss > limit, and the interval holds 0: inconclusive, the data cannot tell it from chance.

    The interval alone cannot be the rule: with 600 samples it is about ±1 point wide, and nothing would ever be surely
    within half a point. The value alone cannot be it either: two flipped samples would fail a pull request.
    """
    asked, task = settings.max_accuracy_drop, accuracy.task
    if asked is None:
        return []
    against = (task.drop_from if task else None) or ("reference" if settings.base == "none" else "base")
    rule = f"loses at most {_asked_words(asked)} against {against}"
    name = "max-accuracy-drop"
    amount = _limit(asked, task) if task else None
    if task is None or task.drop is None or amount is None:
        return [_not_checked(name, rule, _asked_words(asked), accuracy)]
    share = settings.metric in METRICS or asked.kind == "points"
    limit = _loss_words(amount, share)
    observed = words.metric_interval(task.drop, amount, fraction=share, unit="points")
    status, reason = _judge_drop(task, task.drop, amount, share)
    return [Gate(name=name, rule=rule, observed=observed, limit=limit, status=status, reason=reason)]


def _limit(asked: AccuracyDrop, task: TaskMetric) -> float | None:
    """The largest loss in the metric's own unit."""
    if asked.kind != "relative":
        return asked.amount
    compared = task.base if task.drop_from == "base" else task.reference
    return None if compared is None else asked.amount * abs(compared.estimate)


def _judge_drop(task: TaskMetric, drop: Estimate, limit: float, share: bool) -> tuple[GateStatus, str]:
    where = f"on {task.samples} labelled samples"
    if drop.estimate <= limit + _ROUNDING:
        if drop.high <= limit + _ROUNDING:
            return "passed", f"The loss is within the limit {where}."
        worst = words.points(drop.high, limit) if share else words.metric_value(drop.high, limit)
        return "passed", (
            f"The observed loss is within the limit {where}; they cannot exclude a loss of up to "
            f"{worst} ({words.percent(drop.confidence)})."
        )
    if drop.low == drop.high:
        return (
            "failed",
            f"The loss is above the limit {where}; the metric gives no interval, so chance is not excluded.",
        )
    if drop.low > 0:
        chance = f", McNemar p = {task.p_value:.2g}" if task.p_value is not None else ""
        return (
            "failed",
            f"The loss is above the limit {where}, and it is not chance ({words.percent(drop.confidence)}{chance}).",
        )
    needed = math.ceil(task.samples * ((drop.estimate - drop.low) / drop.estimate) ** 2)
    return "inconclusive", (
        f"The observed loss is above the limit, but {task.samples} labelled samples cannot tell it from none; "
        f"about {needed} would, if it is real."
    )


def _asked_words(asked: AccuracyDrop) -> str:
    if asked.kind == "unit":
        return decimal(asked.amount)
    return f"{words.percent(asked.amount)} (relative)" if asked.kind == "relative" else _loss_words(asked.amount, True)


def _loss_words(amount: float, share: bool) -> str:
    shown = f"{amount * 100:.6g}"
    return (f"{shown} point" if shown == "1" else f"{shown} points") if share else f"{amount:.6g}"


def _not_checked(name: str, rule: str, limit: str, accuracy: Accuracy) -> Gate:
    reason = accuracy.not_checked or "There is no value to compare with."
    return Gate(name=name, rule=rule, observed="not measured", limit=limit, status="not-checked", reason=reason)


def finite_outputs(accuracy: Accuracy) -> list[Gate]:
    """No more NaN and no more infinities in any output of head than the reference has there. Checked whenever outputs
    were compared."""
    if accuracy.parity is None or not accuracy.parity.head:
        return []
    outputs = accuracy.parity.head
    bad = {name: one for name, one in outputs.items() if one.nan > one.reference_nan or one.inf > one.reference_inf}
    where = f"Over {accuracy.parity.samples} {accuracy.parity.data} samples"
    if bad:
        observed = ", ".join(f"{name[:60]}: {_non_finite(one)}" for name, one in list(bad.items())[:5])
        reason = f"{where} head gives more NaN or infinite values than the FP32 reference; a range was exceeded."
    elif any(one.nan or one.inf for one in outputs.values()):
        observed = "no more than the reference"
        reason = f"{where} the FP32 reference has at least as many in every output."
    else:
        observed, reason = "none", f"{where}."
    return [
        Gate(
            name="finite-outputs",
            rule="no more NaN or Inf than the FP32 reference",
            observed=observed,
            limit="as the reference",
            status="failed" if bad else "passed",
            reason=reason,
        )
    ]


def _non_finite(one: OutputParity) -> str:
    counted = f"{one.nan} NaN, {one.inf} Inf"
    if one.reference_nan or one.reference_inf:
        counted += f" (reference {one.reference_nan} NaN, {one.reference_inf} Inf)"
    return counted
