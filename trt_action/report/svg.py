"""The few pieces of SVG that the charts need. Colours come from the page's style sheet through classes, so that one
drawing serves light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH = 720


@dataclass(frozen=True)
class Scale:
    """From values [low, high] to pixels [start, end]; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, wanted: int = 6) -> list[float]:
        """Round values inside the scale: 1, 2 or 5 times a power of ten."""
        if self.log:
            found = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5) if self.low <= m * 10.0**e <= self.high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / 8)]
        span = self.high - self.low
        if not max(1e-9 * max(abs(self.low), abs(self.high)), 1e-15) < span < 1e15:  # nothing to tell apart, or absurd
            return [self.low]
        raw = span / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Drawing:
    """An SVG picture that grows from back to front."""

    title: str
    description: str
    height: int
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, css: str, content: str = "", **attributes: float | str) -> None:
        """One element. `content` is a tooltip; it is escaped like everything else."""
        written = "".join(f' {name.replace("_", "-")}="{_value(value)}"' for name, value in attributes.items())
        inner = f"<title>{escape(content)}</title>" if content else ""
        self.parts.append(f'<{tag} class="{css}"{written}>{inner}</{tag}>')

    def text(self, x: float, y: float, words: str, css: str = "tick", anchor: str = "start") -> None:
        self.parts.append(f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, css: str, points: Iterable[tuple[float, float]], tooltip: str = "") -> None:
        self.add("polyline", css, tooltip, points=_points(points))

    def area(self, css: str, points: Iterable[tuple[float, float]], tooltip: str = "") -> None:
        self.add("polygon", css, tooltip, points=_points(points))

    def x_axis(self, scale: Scale, y: float, top: float, label: str, name: Callable[[float], str]) -> None:
        """Ticks with thin vertical grid lines from `top` to `y`, and the axis' name at the right end."""
        for tick in scale.ticks():
            self.add("line", "grid", x1=scale(tick), x2=scale(tick), y1=top, y2=y)
            words = name(tick)
            self.text(min(scale(tick), WIDTH - 2 - 3.6 * len(words)), y + 16, words, anchor="middle")
        self.text(scale.end, y + 32, label, "axis", "end")

    def y_axis(self, scale: Scale, left: float, right: float, label: str, name: Callable[[float], str]) -> None:
        for tick in scale.ticks(5):
            self.add("line", "grid", x1=left, x2=right, y1=scale(tick), y2=scale(tick))
            self.text(left - 6, scale(tick) + 4, name(tick), anchor="end")
        self.text(0, min(scale.start, scale.end) - 8, label, "axis")

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """(css class, words), from left to right."""
        for css, words in entries:
            self.add("rect", f"key {css}", x=x, y=y - 9, width=12, height=10, rx=2)
            self.text(x + 17, y, words, "label")
            x += 32 + 6.6 * len(words)

    def markup(self) -> Markup:
        head = f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(self.title)}: {escape(self.description)}">'
        return Markup(head + "".join(self.parts) + "</svg>")  # noqa: S704 – every part is escaped above


def _value(value: float | str) -> str:
    return str(escape(value)) if isinstance(value, str) else f"{value:.1f}"


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
