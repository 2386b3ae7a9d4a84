"""Is head slower than base? Both measured in this run, interleaved, until the answer is clear (docs/method.md).

Knows no backend: what runs a block and what tells the time are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Block:
    """Consecutive inferences of one side. `wall_ns`: one duration per iteration, in order; `cpu_ns`: thread CPU
    (or device event) time of the whole block without its first iteration, 0 if it cannot be had."""

    wall_ns: list[int]
    cpu_ns: int


class Runner(Protocol):
    """One side in its own process, loaded and warmed up."""

    def block(self, iterations: int) -> Block:
        """Run `iterations` inferences back to back.

        Raises:
            MeasureError: the process died, hung, or its outputs cannot be trusted (NaN that the first run had not).
        """

    def reload(self) -> None:
        """Close the session, load the engine again in the same process, warm up."""


class UnitSides(Protocol):
    """The processes of one unit, pinned alike. `floor` is a second process of the base, for the noise floor."""

    @property
    def head(self) -> Runner: ...
    @property
    def base(self) -> Runner: ...
    @property
    def floor(self) -> Runner | None: ...


@dataclass(frozen=True)
class Plan:
    """What is asked of a comparison (docs/method.md has the reason for every default).

    Relative changes are fractions (0.005 = 0.5 %); `limit` is `max-latency-regression`, None if unset.
    """

    max_seconds: float = 60.0
    margin: float = 0.005
    tolerance: float = 0.02
    limit: float | None = None
    confidence: float = 0.99
    seed: int = 0
    units: int = 2
    reloads: int = 4
    look_every: int = 10
