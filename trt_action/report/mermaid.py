"""Charts that GitHub draws from text. Labels are ours; numbers are plain decimals, as Mermaid wants them."""

from __future__ import annotations

from collections.abc import Sequence

from trt_action.report import format as fmt


def percentile_chart(percentiles: Sequence[tuple[str, float | None, float]]) -> str:
    """Bars of base and head side by side for each percentile. `percentiles` holds (name, base ms or None, head ms)."""
    bars: list[tuple[str, float]] = []
    for name, base, head in percentiles:
        bars += [(f"{name} base", base), (f"{name} head", head)] if base is not None else [(name, head)]
    unit = fmt.time_unit([value for _, value in bars])
    factor = {"µs": 1e3, "ms": 1.0, "s": 1e-3}[unit]
    values = [min(value * factor, 1e9) for _, value in bars]
    labels = ", ".join(f'"{label}"' for label, _ in bars)
    return "\n".join(
        (
            "xychart-beta",
            f'    title "Latency, {unit}"',
            f"    x-axis [{labels}]",
            f'    y-axis "{unit}" 0 --> {_decimal(max(values, default=0) * 1.1 or 1)}',
            f"    bar [{', '.join(_decimal(value) for value in values)}]",
        )
    )


def _decimal(value: float) -> str:
    return fmt.number(value, 4).replace(",", "")
