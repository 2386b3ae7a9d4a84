"""The verdict in one line, for someone who reads nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_action.evidence import Evidence, Gate, Outcome
from trt_action.report import format as fmt
from trt_action.report import llm
from trt_action.report import sections as parts
from trt_action.report.escape import clip

OUTCOME_ICON: dict[Outcome, str] = {"passed": "✅", "failed": "❌", "inconclusive": "⚠️"}
OUTCOME_WORD: dict[Outcome, str] = {"passed": "Passed", "failed": "Failed", "inconclusive": "Inconclusive"}
ERROR_ICON, ERROR_WORD = "🛑", "Stopped by an error"


@dataclass(frozen=True)
class Headline:
    """`{icon} **{word}** · {details…}`."""

    icon: str
    word: str
    details: tuple[str, ...]

    def __str__(self) -> str:
        return " · ".join((f"{self.icon} {self.word}", *self.details))


def headline(evidence: Evidence) -> Headline:
    """The verdict in one line, for someone who reads nothing else."""
    if evidence.error:
        stage = f"in stage {clip(evidence.error.stage, 40)}" if evidence.error.stage else ""
        details = (clip(evidence.error.title, 80), stage, clip(evidence.error.what, 160))
        return Headline(ERROR_ICON, ERROR_WORD, tuple(d for d in details if d))
    details = (_gates_in_words(evidence), _latency_in_words(evidence), _accuracy_in_words(evidence))
    return Headline(OUTCOME_ICON[evidence.outcome], OUTCOME_WORD[evidence.outcome], tuple(d for d in details if d))


def _gates_in_words(evidence: Evidence) -> str:
    gates = evidence.gates
    if evidence.outcome == "passed":
        unchecked = [g for g in gates if g.status == "not-checked"]
        return f"{fmt.plural(len(unchecked), 'gate')} not checked: {_names(unchecked)}" if unchecked else ""
    if evidence.outcome == "failed":
        broken = [g for g in gates if g.status == "failed"]
        of = f"{len(broken)} of {fmt.plural(len(gates), 'gate')}: " if broken else ""
        return of + _names(broken)
    unclear = [g for g in gates if g.status == "inconclusive"]
    if unclear:
        return f"no clear answer on {_names(unclear)}"
    return "no gate could be decided" if gates else "no rule was asked for"


def _names(gates: Sequence[Gate]) -> str:
    return ", ".join(clip(g.name, 40) for g in gates[:3]) + (", …" if len(gates) > 3 else "")


def _latency_in_words(evidence: Evidence) -> str:
    head = evidence.head.latency if evidence.head else None
    comparison = evidence.comparison
    if comparison is None or comparison.p50_ratio is None:
        if evidence.llm is not None:
            compared = "no base to compare with" if evidence.llm.base is None else "not compared"
            return f"{llm.line(evidence) or 'times not checked'}, {compared}"
        if head is None:
            return "latency not checked"
        return f"p50 {fmt.ms(head.p50_ms)}, " + ("no base to compare with" if not evidence.base else "not compared")
    ratio = comparison.p50_ratio.estimate
    times = _arrow(evidence)
    if comparison.verdict == "within-noise":
        return f"as fast as base (p50 {fmt.change_interval(comparison.p50_ratio)})"
    if comparison.verdict == "inconclusive":
        return f"no clear latency verdict (p50 {fmt.change_interval(comparison.p50_ratio)})"
    return fmt.faster_or_slower(ratio) + (f" (p50 {times})" if times else "")


def _arrow(evidence: Evidence) -> str:
    """`0.412 ms → 0.361 ms`, unless the separate latency passes contradict the interleaved comparison."""
    head = evidence.head.latency if evidence.head else None
    base = evidence.base.latency if evidence.base else None
    if not (head and base) or passes_disagree(evidence):
        return ""
    unit = fmt.time_unit([base.p50_ms, head.p50_ms])
    return f"{fmt.ms(base.p50_ms, unit)} → {fmt.ms(head.p50_ms, unit)}"


def passes_disagree(evidence: Evidence) -> bool:
    """True if the latency passes put head on the other side of base than the comparison surely does."""
    head = evidence.head.latency if evidence.head else None
    base = evidence.base.latency if evidence.base else None
    if not (head and base and base.p50_ms > 0 and evidence.comparison):
        return False
    plain = head.p50_ms / base.p50_ms
    return {
        "regressed": plain < 1,
        "improved": plain > 1,
        "within-noise": abs(plain - 1) > evidence.comparison.tolerance,
        "inconclusive": False,
    }[evidence.comparison.verdict]


def _accuracy_in_words(evidence: Evidence) -> str:
    task = evidence.accuracy.task
    if task is None:
        return "accuracy not checked"
    word, value = parts.metric_word(task, 30), parts.metric_value(task, task.head.estimate)
    drop = task.drop
    if drop is None:
        return f"{word} {value}"
    against = "" if task.drop_from == "base" else " against the FP32 reference"
    if drop.estimate == 0:
        return f"{word} unchanged{against} at {value}"
    change = parts.metric_change(task).split(" [")[0].lstrip("+" + fmt.MINUS)
    if drop.low <= 0 <= drop.high:
        return f"{word} {value}, no clear change{against}"
    return f"{word} {value}, {change} {'worse' if drop.estimate > 0 else 'better'}{against}"


def model_name(evidence: Evidence, limit: int = 80) -> str:
    """The model's name; an evidence that ended before the model was read has only the setting."""
    asked = evidence.settings
    name = evidence.model.name if evidence.model else asked.get("name") or asked.get("model")
    if not name and evidence.llm is not None:
        name = evidence.llm.head.model
    name = name or asked.get("endpoint-model") or asked.get("endpoint-image") or asked.get("endpoint")
    return clip(str(name or "model"), limit)


def distinct_names(evidences: Sequence[Evidence], limit: int = 80) -> list[str]:
    """The models' names; a second run of the same model (on another host) is `name (2)`."""
    found: list[str] = []
    for one in evidences:
        name, again = model_name(one, limit), 1
        while (shown := name if again == 1 else f"{name} ({again})") in found:
            again += 1
        found.append(shown)
    return found


def overall(evidences: Sequence[Evidence]) -> Headline:
    """One headline for several evidences: failed before inconclusive before passed."""
    total = fmt.plural(len(evidences), "run")
    for outcome in ("failed", "inconclusive"):
        if found := [e for e in evidences if verdict(e) == outcome]:
            names = ", ".join(model_name(e, 40) for e in found[:3]) + (", …" if len(found) > 3 else "")
            icon, word = OUTCOME_ICON[verdict(found[0])], OUTCOME_WORD[verdict(found[0])]
            return Headline(icon, word, (f"{len(found)} of {total}: {names}",))
    return Headline(OUTCOME_ICON["passed"], OUTCOME_WORD["passed"], (f"all {total}",))


def verdict(evidence: Evidence) -> Outcome:
    """A run that ended early has failed, whatever its outcome says."""
    return "failed" if evidence.error else evidence.outcome
