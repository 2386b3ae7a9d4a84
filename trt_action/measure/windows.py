"""Timed windows that say nothing: the device was slower meanwhile, for a reason that is not the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from trt_action.process import Message

SECONDS = 0.5
"""Of a window of one side: short beside what a GPU takes to heat up, long beside an inference."""

REWARM = 0.005
"""Seconds (at least one iteration) at the start of a window that are not timed: the caches still hold what ran before,
which a server would not meet on every n-th request."""


class Windows(Protocol):
    """Asked before and after a timed window (a round of blocks, a turn of the latency pass, half a second of another),
    never inside one."""

    def begin(self) -> None:
        """A window begins."""

    def again(self) -> bool:
        """The window is over: whether it is to be set aside and measured again. True a bounded number of times only; a
        device that is disturbed more often is measured as it is, and the watch over it says so."""


def in_windows(
    windows: Windows | None, seconds: float, measure: Callable[[float, int], Message]
) -> tuple[list[Message], int]:
    """A pass of one worker in windows of 0.5 s; where nobody watches the device, in one piece.

    Args:
        measure: a pass of so many seconds, after untimed iterations for so many nanoseconds (none if 0). Its answer
            tells the `seconds` it took.

    Returns:
        The answers that count, at least one; and how many windows were set aside.
    """
    if windows is None:
        return [measure(seconds, 0)], 0
    counted: list[Message] = []
    set_aside, left = 0, seconds
    while left > 0 or not counted:
        length = left if left < 1.5 * SECONDS else SECONDS
        windows.begin()
        answer = measure(length, int(REWARM * 1e9))
        if windows.again():
            set_aside += 1
        else:
            counted.append(answer)
            left -= max(length, answer["seconds"])
    return counted, set_aside
