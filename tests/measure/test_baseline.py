from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_action.engine.backend import Loadable
from trt_action.errors import BuildError
from trt_action.measure import speedup, usable_cpus


def test_speedup_is_baseline_over_head(convs: Callable[..., Loadable], feeds: Path) -> None:
    result = speedup(convs(4), convs(40), feeds, over="forty layers", cpus=usable_cpus(1), baseline_cpus=usable_cpus(1))
    assert result.over == "forty layers"
    assert 2 < result.ratio.low <= result.ratio.estimate <= result.ratio.high < 20
    assert result.baseline_p50_ms > 0


def test_a_baseline_that_does_not_load_is_named(convs: Callable[..., Loadable], feeds: Path) -> None:
    broken = convs(3)
    broken.path.write_bytes(b"no model")
    with pytest.raises(BuildError, match=r"^baseline: "):
        speedup(convs(2), broken, feeds, over="broken")
