"""The words of a comparison: of engines in processes, or of servers behind connections."""

from __future__ import annotations

import pytest

from tests.measure.test_duet import Machine, run
from trt_action.measure.conclusion import Of
from trt_action.measure.duet import Plan

WORDS: dict[Of, tuple[str, str, str]] = {
    "inferences": ("a second process of itself", "set of processes", "engine"),
    "requests": ("second connections to itself", "set of connections", "server"),
}


@pytest.mark.parametrize("of", WORDS)
def test_what_is_compared_is_called_by_its_name(of: Of) -> None:
    second, fresh, thing = WORDS[of]
    unsteady = run(Machine(head=0.0025 * 1.05, second=0.0025 * 1.05, noise=0.002), Plan(max_seconds=20, of=of))
    assert f"{second} by" in unsteady.reason
    assert f"compare {thing}s" in unsteady.reason
    differing = run(Machine(layout=0.05), Plan(max_seconds=60, of=of))
    assert any(text.startswith(f"The same {thing}s differ from one {fresh}") for text in differing.warnings)
    short = run(Machine(head=0.5, base=0.5, second=0.5), Plan(max_seconds=9, of=of))
    assert f"Only 1 {fresh} was measured" in short.reason
