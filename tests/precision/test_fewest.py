"""The fewest layers, against every possible answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.precision.fewest import TimeIsUpError, fewest

LAYERS = "abcdefghijklmnopqrst"


def counted(rule: Callable[[set[str]], bool], most: int = 1_000) -> tuple[Callable[[Sequence[str]], bool], list[int]]:
    trials: list[int] = []

    def holds(kept: Sequence[str]) -> bool:
        if len(trials) == most:
            raise TimeIsUpError
        trials.append(len(kept))
        return rule(set(kept))

    return holds, trials


@given(st.lists(st.floats(0, 10), min_size=2, max_size=20), st.floats(0, 30))
def test_errors_that_add_up(errors: list[float], limit: float) -> None:
    """Where errors add up and the ranking is right, the answer is as small as any set can be."""
    layers = list(range(len(errors)))
    ranked = sorted(layers, key=lambda i: -errors[i])

    def fits(kept: set[int]) -> bool:
        return sum(error for i, error in enumerate(errors) if i not in kept) <= limit

    found = fewest(ranked, lambda kept: fits(set(kept)))
    most = len(errors) - 1
    smallest = next((n for n in range(1, most + 1) if fits(set(ranked[:n]))), None)
    assert (None if found is None else len(found)) == smallest
    assert found is None or fits(set(found))


@pytest.mark.parametrize("needed", ["a", "t", "q", "ck", "bst", "adgj", "abcdefgh"])
def test_one_stubborn_set_is_found_whatever_its_ranks_are(needed: str) -> None:
    """Needless layers that were ranked between the needed ones are taken out again, where that is affordable."""
    holds, trials = counted(lambda kept: set(needed) <= kept)
    found = fewest(LAYERS, holds)
    if "t" in needed:  # all but the last are the most that can be kept
        assert found is None
        return
    assert found is not None
    last = LAYERS.index(max(needed)) + 1
    assert found == (tuple(needed) if last <= 8 else tuple(LAYERS[:last]))
    assert len(trials) <= 2 * 5 + 8


def test_small_networks_have_the_smallest_answer_of_all() -> None:
    """Brute force over every rule "these layers have to be kept" of six layers: at most the last one too many tries."""
    for count in range(1, 6):
        for needed in combinations("abcde", count):
            found = fewest("abcdef", lambda kept, needed=needed: set(needed) <= set(kept))  # type: ignore[misc]
            assert found == needed


@pytest.mark.parametrize(("most", "size"), [(0, None), (2, None), (3, 4), (4, 3), (5, 2), (6, 2)])
def test_when_the_time_is_up_the_best_so_far_is_the_answer(most: int, size: int | None) -> None:
    holds, trials = counted(lambda kept: {"a", "c"} <= kept, most)
    found = fewest(LAYERS, holds)
    assert (None if found is None else len(found)) == size
    assert len(trials) <= most


@pytest.mark.parametrize("layers", ["", "a"])
def test_nothing_to_keep(layers: str) -> None:
    assert fewest(layers, lambda kept: True) is None
