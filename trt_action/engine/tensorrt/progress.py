"""TensorRT's nested phases as one bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tell = Callable[[str, float | None], None]

EVERY = 0.1
"""Seconds between two reports: a phase can have thousands of steps."""


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The open phases, outermost first. Shares add up: a phase inside one step of another moves within that step."""

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._open: dict[str, _Phase] = {}
        self._told = float("-inf")
        self._reached = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        if not self._open:
            self._reached = 0.0
        self._open[name] = _Phase(name, parent, steps)
        self._report()

    def step(self, name: str, step: int) -> None:
        if phase := self._open.get(name):
            phase.done = max(phase.done, step + 1)
        self._report()

    def finish(self, name: str) -> None:
        self._open.pop(name, None)

    def share(self) -> float | None:
        """Finished part of everything in [0, 1]; None between phases. It never goes back: a phase ends a moment before
        the step that it was a part of."""
        root = next((phase for phase in self._open.values() if phase.parent not in self._open), None)
        if root is None:
            return None
        self._reached = max(self._reached, self._share(root))
        return self._reached

    def _share(self, phase: _Phase) -> float:
        inner = max((self._share(p) for p in self._open.values() if p.parent == phase.name), default=0.0)
        return min(1.0, (phase.done + inner) / max(phase.steps, 1))

    def _report(self) -> None:
        now = self._clock()
        if now - self._told < EVERY:
            return
        self._told = now
        self._tell(" › ".join(self._open), self.share())


def monitor(trt: Any, phases: Phases) -> Any:
    """An `IProgressMonitor` for `config.progress_monitor`. An exception in it would end the build without a word."""

    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return _Monitor()
