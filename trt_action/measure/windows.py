"""Timed windows that say nothing: the device was slower meanwhile, for a reason that is not the engine's."""

from __future__ import annotations

from typing import Protocol


class Windows(Protocol):
    """Asked before and after a timed window (a round of blocks, a turn of the latency pass), never inside one."""

    def begin(self) -> None:
        """A window begins."""

    def again(self) -> bool:
        """The window is over: whether it is to be set aside and measured again. True a bounded number of times only; a
        device that is disturbed more often is measured as it is, and the watch over it says so."""
