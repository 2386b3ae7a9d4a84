"""Tables and plot of recorded verdict trials (benchmarks/verdict.py)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rivals, sections

Trial = dict[str, Any]
OURS = "this tool, `regressed`"


def read(files: Iterable[Path]) -> list[Trial]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def report(trials: list[Trial], command: str, path: Path | None) -> str:
    """Markdown; with `path` also written into its section, and the plot as `verdict.svg` beside it."""
    shares = {(rule, effect, noisy): share(trials, rule, effect, noisy) for rule, effect, noisy in cells(trials)}
    parts = [
        "## Can the verdict be trusted?",
        f"`{command}` on {sections.host()}, one thread, {len(trials)} trials. Share of trials that call head "
        "slower (quiet / noisy); `+n %` = n more layers on a chain of 100. The margin is in the second table.",
        "![Share of trials that call head slower, by rule](verdict.svg)" if path else "",
        rules_table(trials, shares),
        "What `compare` said, and how long it took:",
        verdicts_table(trials),
    ]
    body = "\n\n".join(part for part in parts if part)
    if path:
        sections.write(path, "verdict", body)
        path.with_name("verdict.svg").write_text(plot(trials, shares), encoding="utf-8")
    return body


def rules() -> dict[str, str]:
    return {**rivals.NAMES, "ours": OURS}


def effects(trials: list[Trial]) -> list[int]:
    return sorted({trial["effect"] for trial in trials})


def cells(trials: list[Trial]) -> list[tuple[str, int, bool]]:
    return [(rule, effect, noisy) for rule in rules() for effect in effects(trials) for noisy in (False, True)]


def share(trials: list[Trial], rule: str, effect: int, noisy: bool) -> tuple[int, int]:
    """(trials that call head slower, trials). A stored number is base's mean in the first trial of the same net on
    the same kind of host; that trial itself does not count for its rule."""
    chosen = [t for t in trials if (t["effect"], t["noisy"]) == (effect, noisy)]
    if rule == "ours":
        return sum(t["verdict"] == "regressed" for t in chosen), len(chosen)
    first: dict[str, Trial] = {}
    for trial in trials:
        if trial["noisy"] == noisy:
            first.setdefault(trial["net"], trial)
    if rule == "stored":
        chosen = [t for t in chosen if t is not first[t["net"]]]
    says = [rivals.says_slower(rule, t, first[t["net"]]["sequential"]["base_mean_ns"]) for t in chosen]
    return sum(says), len(says)


def rules_table(trials: list[Trial], shares: dict[tuple[str, int, bool], tuple[int, int]]) -> str:
    def cell(rule: str, effect: int) -> str:
        return " / ".join(percent(*shares[rule, effect, noisy]) for noisy in (False, True))

    header = ["rule", *("A/A: false alarms" if effect == 0 else f"+{effect} %" for effect in effects(trials))]
    return sections.table(
        header, [[name, *(cell(rule, effect) for effect in effects(trials))] for rule, name in rules().items()]
    )


def verdicts_table(trials: list[Trial]) -> str:
    keys = sorted({(t["margin"], t["effect"], t["net"], t["noisy"]) for t in trials})
    return sections.table(
        [
            "margin",
            "effect",
            "net",
            "host",
            "measured effect",
            "trials",
            "regressed",
            "within noise",
            "improved",
            "inconclusive",
            "median time",
            "95 % within",
        ],
        [verdict_row(trials, *key) for key in keys],
    )


def verdict_row(trials: list[Trial], margin: float, effect: int, net: str, noisy: bool) -> list[str]:
    chosen = [t for t in trials if (t["margin"], t["effect"], t["net"], t["noisy"]) == (margin, effect, net, noisy)]
    ratios = [t["p50_ratio"]["estimate"] for t in chosen if t["p50_ratio"]]
    seconds = np.sort([t["seconds"] for t in chosen])
    counts = [
        f"{sum(t['verdict'] == verdict for t in chosen) / len(chosen):.0%}"
        for verdict in ("regressed", "within-noise", "improved", "inconclusive")
    ]
    return [
        f"{margin:.1%}",
        "A/A" if effect == 0 else f"+{effect} %",
        net,
        "noisy" if noisy else "quiet",
        f"{np.median(ratios) - 1:+.2%}" if ratios else "–",
        str(len(chosen)),
        *counts,
        f"{np.median(seconds):.1f} s",
        f"{seconds[math.ceil(0.95 * len(seconds)) - 1]:.1f} s",
    ]


def percent(count: int, of: int) -> str:
    return f"{count / of:.0%}" if of else "–"


def plot(trials: list[Trial], shares: dict[tuple[str, int, bool], tuple[int, int]]) -> str:
    """One panel per effect, one row per rule; a filled dot for the quiet host, a ring for the noisy one."""
    left, panel, gap, row, top = 290, 130, 46, 30, 46
    columns = effects(trials)
    width = left + len(columns) * (panel + gap)
    height = top + len(rules()) * row + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        "<style>text{fill:#333}.axis{stroke:#999}.grid{stroke:#ddd}.dot{fill:#1769aa;stroke:#1769aa}"
        ".ring{fill:none;stroke:#1769aa;stroke-width:2}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}"
        ".dot{fill:#6cb6ff;stroke:#6cb6ff}.ring{stroke:#6cb6ff}}</style>",
    ]
    for y, name in enumerate(rules().values()):
        parts.append(f'<text x="{left - 14}" y="{top + y * row + 19}" text-anchor="end">{escape(name)}</text>')
    for x, effect in enumerate(columns):
        x0 = left + x * (panel + gap)
        title = "A/A: false alarms" if effect == 0 else f"true +{effect} %"
        parts.append(f'<text x="{x0}" y="24" font-weight="bold">{title}</text>')
        for tick in (0, 50, 100):
            at = x0 + panel * tick / 100
            bottom = top + len(rules()) * row
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top - 8}" y2="{bottom}"/>')
            parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{tick} %</text>')
        for y, rule in enumerate(rules()):
            for noisy, shape in ((False, "dot"), (True, "ring")):
                count, of = shares[rule, effect, noisy]
                if of:
                    at = x0 + panel * count / of
                    parts.append(
                        f'<circle class="{shape}" cx="{at:.1f}" cy="{top + y * row + 15}" r="{4 + 2 * noisy}"/>'
                    )
    parts.append(f'<text x="{left}" y="{height - 4}">● quiet host   ○ bursty neighbour on the same CPU</text></svg>')
    return "\n".join(parts)


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "")
