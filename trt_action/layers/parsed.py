"""One layer as a tool describes it, before it becomes a record: what both parsers give."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["compute", "convert", "other"]
"""`compute`: a matrix product or convolution, alone or fused with more. `convert`: changes the type or the layout of a
tensor and nothing else (reformat, cast, quantize, copy between devices)."""

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that precision is about, as everywhere in this product (precision/graph.py)."""

_LEFT_OUT = 10
"""The slowest tenth of a layer's times is left out of their mean: interruptions by other processes."""


@dataclass(frozen=True)
class ParsedLayer:
    """`nodes` are names of nodes of the ONNX graph that the engine was built from. Formats are as the tool writes them."""

    name: str
    kind: str
    role: Role = "other"
    precision: str | None = None
    tactic: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    rounds: tuple[float, ...] = ()
    """Mean ms per inference, round by round; empty where the tool gives no time."""
    fastest: float = 0.0
    """ms of the fastest inference of all rounds: what other processes did to the host is not in it."""

    @property
    def ms(self) -> float | None:
        """The median of the rounds: one that was disturbed does not count."""
        return statistics.median(self.rounds) if self.rounds else None

    def timed(self, times: Sequence[float], parts: int = 1) -> ParsedLayer:
        """With the times of one round; `parts` layers share them."""
        return replace(self, rounds=(mean(times) / parts,), fastest=min(times) / parts)


def mean(times: Sequence[float]) -> float:
    """Mean without the slowest tenth."""
    return statistics.fmean(sorted(times)[: len(times) - len(times) // _LEFT_OUT])


def joined(rounds: Sequence[Sequence[ParsedLayer]]) -> list[ParsedLayer]:
    """The same layers seen in several rounds. One that a round did not see has taken no time in it."""
    times = [{layer.name: layer for layer in seen} for seen in rounds]
    layers = {layer.name: layer for seen in reversed(rounds) for layer in seen}
    order = dict.fromkeys(layer.name for seen in rounds for layer in seen)
    return [_over_rounds(layers[name], [seen.get(name) for seen in times]) for name in order]


def _over_rounds(layer: ParsedLayer, seen: Sequence[ParsedLayer | None]) -> ParsedLayer:
    timed = [one for one in seen if one is not None and one.rounds]
    if not timed:
        return layer
    rounds = tuple(one.rounds[0] if one is not None and one.rounds else 0.0 for one in seen)
    return replace(layer, rounds=rounds, fastest=min(one.fastest for one in timed))


def by_name(runs: Sequence[Sequence[tuple[str, float]]]) -> Mapping[str, list[float]]:
    """Times of each layer, one sum per run: a layer that ran twice in one inference took both times."""
    found: dict[str, list[float]] = {}
    for number, run in enumerate(runs):
        for name, ms in run:
            times = found.setdefault(name, [0.0] * len(runs))
            times[number] += ms
    return found
