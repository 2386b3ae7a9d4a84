"""Gates on rightness: the task metric on labelled data, and outputs that are numbers at all."""

from __future__ import annotations

import math

from trt_action.evidence import Accuracy, Estimate, Gate, GateStatus, TaskMetric
from trt_action.judge import words
from trt_action.settings import Settings
from trt_action.settings.fields import METRICS
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
    name, rule = "min-accuracy", f"{settings.metric if settings.metric in METRICS else 'metric'} ≥ {limit}"
    if task is None:
        return [_not_checked(name, rule, limit, accuracy)]
    observed = words.metric_interval(task.head, fraction=share)
    if not task.higher_is_better:
        reason = "The metric says that smaller is better, so a smallest value means nothing: use `max-accuracy-drop`."
        return [Gate(name=name, rule=rule, observed=observed, limit=limit, status="inconclusive", reason=reason)]
    status: GateStatus = "passed" if task.head.estimate >= asked.value - _ROUNDING else "failed"
    reason = f"Judged by the value on {task.samples} labelled samples; {_interval_words(task, share)}."
    return [Gate(name=name, rule=rule, observed=observed, limit=limit, status=status, reason=reason)]


def _interval_words(task: TaskMetric, share: bool) -> str:
    head = task.head
    if head.low == head.high:
        return "the metric gives no interval"
    low, high = (words.share(v) if share else words.significant(v) for v in (head.low, head.high))
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
    observed = words.metric_interval(task.drop, fraction=share, unit="points")
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
        worst = f"{drop.high * 100:.2f} points" if share else words.significant(drop.high)
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
    return f"{amount * 100:.6g} points" if share else f"{amount:.6g}"


def _not_checked(name: str, rule: str, limit: str, accuracy: Accuracy) -> Gate:
    reason = accuracy.not_checked or "There is no value to compare with."
    return Gate(name=name, rule=rule, observed="not measured", limit=limit, status="not-checked", reason=reason)


def finite_outputs(accuracy: Accuracy) -> list[Gate]:
    """No NaN and no infinity in head's outputs that the reference does not have. Checked whenever outputs were compared.

    A parity number is null where one side alone is not finite (`evidence.OutputParity`), which tells the two apart.
    """
    if accuracy.parity is None or not accuracy.parity.head:
        return []
    outputs = accuracy.parity.head.items()
    bad = {name: one for name, one in outputs if (one.nan or one.inf) and one.max_abs is None}
    counted = ", ".join(f"{name[:60]}: {one.nan} NaN, {one.inf} Inf" for name, one in list(bad.items())[:5])
    samples = f"{accuracy.parity.samples} {accuracy.parity.data} samples"
    shared = sum(one.nan + one.inf for _, one in outputs) and not bad
    if bad:
        reason = f"Over {samples} head gives NaN or infinity where the FP32 reference does not; a range was exceeded."
    else:
        reason = f"Over {samples}" + (
            ", as the FP32 reference does: the same elements are not finite." if shared else "."
        )
    return [
        Gate(
            name="finite-outputs",
            rule="no NaN or Inf that the FP32 reference has not",
            observed=counted or ("as the reference" if shared else "none"),
            limit="none",
            status="failed" if bad else "passed",
            reason=reason,
        )
    ]
