"""The fewest layers to keep: a search over a ranking, by whether a rule holds. It knows no models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Layer = TypeVar("Layer")

PRUNED = 8
"""Up to so many kept layers, each one is tried without: a ranking of single layers does not know what they do together."""


class TimeIsUpError(Exception):
    """Raised by `holds` when there is no time for another trial; never leaves this room."""


def fewest(ranked: Sequence[Layer], holds: Callable[[Sequence[Layer]], bool]) -> tuple[Layer, ...] | None:
    """The smallest set of layers to keep for which `holds` was seen to be true; None if there was none.

    Doubles the number of most sensitive layers until the rule holds, halves the gap, then takes layers out again one by
    one. At least one layer is never kept: with all of them kept, nothing would be left in the asked precision. At most
    about 2 log₂(layers) + 8 trials.

    Args:
        ranked: most sensitive first.
        holds: whether the rule holds when these layers are kept; that keeping none is not enough is known. It may
            raise `TimeIsUpError`: then what was found so far is the answer.
    """
    found: tuple[Layer, ...] | None = None
    try:
        low, high = 0, 0
        while found is None:
            if high == len(ranked) - 1 or len(ranked) < 2:
                return None
            low, high = high, min(max(1, 2 * high), len(ranked) - 1)
            found = tuple(ranked[:high]) if holds(ranked[:high]) else None
        while high - low > 1:
            middle = (low + high) // 2
            if holds(ranked[:middle]):
                high, found = middle, tuple(ranked[:middle])
            else:
                low = middle
        for layer in found[-2::-1] if len(found) <= PRUNED else ():  # without the last it is known not to hold
            fewer = tuple(other for other in found if other is not layer)
            if holds(fewer):
                found = fewer
    except TimeIsUpError:
        pass
    return found
