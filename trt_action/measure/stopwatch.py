"""Elapsed time by a clock that is not trusted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Stopwatch:
    """Seconds since it was made. Never runs backwards, and never slower than the work that is known to have been done.

    So a time limit holds although the clock jumps back or stands still. `jumps` counts the jumps back.
    """

    def __init__(self, clock: Callable[[], float], *, free: float = 0.0) -> None:
        """`free`: seconds of loading that do not count."""
        self._clock = clock
        self._free = free
        self._loading = 0.0
        self._last = clock()
        self._elapsed = 0.0
        self._work = 0.0
        self.jumps = 0

    def add_work(self, nanoseconds: int) -> None:
        """Durations that the workers measured with their own clocks."""
        self._work += max(0, nanoseconds) / 1e9

    def elapsed(self) -> float:
        now = self._clock()
        if now < self._last:
            self.jumps += 1
        self._elapsed += max(0.0, now - self._last)
        self._last = now
        return max(self._elapsed, self._work)

    def counted(self) -> float:
        """Elapsed seconds without those of loading that are free."""
        return self.elapsed() - min(self._loading, self._free)

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        begin = self.elapsed()
        yield
        self._loading += self.elapsed() - begin
