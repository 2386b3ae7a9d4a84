"""Rules in common use, on samples taken one side after the other."""

from __future__ import annotations

import statistics
from typing import Any

from scipy import stats

NAMES = {
    "stored": "stored number, mean ratio > 1.05",
    "median": "one after the other, median ratio > 1.02",
    "welch": "one after the other, Welch p < .01",
    "mann_whitney": "one after the other, Mann–Whitney p < .01",
}


def summarize(base_ns: list[int], head_ns: list[int]) -> dict[str, float]:
    """What the rules need to know of one trial. p-values are two-sided."""
    return {
        "base_mean_ns": statistics.fmean(base_ns),
        "head_mean_ns": statistics.fmean(head_ns),
        "base_median_ns": statistics.median(base_ns),
        "head_median_ns": statistics.median(head_ns),
        "welch_p": float(stats.ttest_ind(head_ns, base_ns, equal_var=False).pvalue),
        "mann_whitney_p": float(stats.mannwhitneyu(head_ns, base_ns).pvalue),
        "n_base": len(base_ns),
        "n_head": len(head_ns),
    }


def says_slower(rule: str, trial: dict[str, Any], stored_mean_ns: float) -> bool:
    """Whether `rule` calls head slower; `stored_mean_ns`: base's mean of an earlier run on the same host."""
    s = trial["sequential"]
    if rule == "stored":
        return bool(s["head_mean_ns"] > 1.05 * stored_mean_ns)
    if rule == "median":
        return bool(s["head_median_ns"] > 1.02 * s["base_median_ns"])
    if rule == "welch":
        return bool(s["welch_p"] < 0.01 and s["head_mean_ns"] > s["base_mean_ns"])
    return bool(s["mann_whitney_p"] < 0.01 and s["head_median_ns"] > s["base_median_ns"])
