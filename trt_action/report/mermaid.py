"""Charts that GitHub draws from text. Labels are ours; numbers are plain decimals, as Mermaid wants them."""

from __future__ import annotations

from collections.abc import Sequence

from trt_action.report import format as fmt

_COLOUR = "#3b7ddd"
"""Readable on GitHub's light and dark ground; Mermaid's own bars are nearly white. One colour for both sides, because
Mermaid draws several series over each other."""

_MOST = 1e9


def percentile_chart(percentiles: Sequence[tuple[str, float | None, float]]) -> str:
    """Bars of base and head side by side for each percentile. `percentiles` holds (name, base ms or None, head ms)."""
    bars: list[tuple[str, float]] = []
    for name, base, head in percentiles:
        bars += [(f"{name} base", base), (f"{name} head", head)] if base is not None else [(name, head)]
    unit = fmt.time_unit([value for _, value in bars])
    factor = {"µs": 1e3, "ms": 1.0, "s": 1e-3}[unit]
    values = [min(value * factor, _MOST) for _, value in bars]
    labels = ", ".join(f'"{label}"' for label, _ in bars)
    return "\n".join(
        (
            f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{_COLOUR}"}}}}}}}}%%',
            "xychart-beta",
            f'    title "Latency, {unit}"',
            f"    x-axis [{labels}]",
            f'    y-axis "{unit}" 0 --> {_decimal(max(values) * 1.1 or 1)}',
            f"    bar [{', '.join(_decimal(value) for value in values)}]",
        )
    )


def _decimal(value: float) -> str:
    """No exponent, no trailing zeros."""
    return f"{value:.{3 if value >= 1 else 6}f}".rstrip("0").rstrip(".")
