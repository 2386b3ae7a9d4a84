"""What people see of layers, and when."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from tests.report import samples
from tests.report.samples import change, layer_diff
from trt_action.evidence import Evidence
from trt_action.layer_records import LayerDiff
from trt_action.report import comment, html, summary, terminal
from trt_action.report.layers import difference

TITLE = "What is different in the layers"
FASTER = change("conv2", ["faster"], 0.2, 0.3)


def with_diff(diff: LayerDiff | None, evidence: Evidence | None = None) -> Evidence:
    return (evidence or samples.passed()).model_copy(update={"layer_diff": diff})


SHOWN: dict[str, tuple[Evidence, bool]] = {
    "nobody looked": (with_diff(None), False),
    "nothing is different": (with_diff(layer_diff()), False),
    "only gains": (with_diff(layer_diff(FASTER, change("x", ["vanished"], None, 0.1))), False),
    "a cost that does not matter": (with_diff(layer_diff(change("x", ["lost-fusion"], 0.101, 0.1))), False),
    "a lost fusion that costs": (with_diff(layer_diff(FASTER, change("x", ["lost-fusion"], 0.15, 0.1))), True),
    "a new cast that costs": (with_diff(layer_diff(change("x", ["new-conversion"], 0.02, None))), True),
    "a fall-back costs nothing and counts": (with_diff(layer_diff(change("x", ["higher-precision"], 0.1, 0.1))), True),
    "slower, whatever it is": (with_diff(layer_diff(FASTER), samples.regressed()), True),
}


@pytest.mark.parametrize("case", SHOWN)
def test_the_comment_shows_differences_that_matter(case: str) -> None:
    evidence, shown = SHOWN[case]
    assert (TITLE in comment([evidence])) == shown
    there = bool(evidence.layer_diff and evidence.layer_diff.changes)
    assert (TITLE in summary([evidence])) == there
    assert (TITLE in html([evidence])) == there


def test_ten_in_the_comment_what_costs_first_and_the_rest_counted() -> None:
    many = [change(f"layer{i}", ["slower"], 0.2 + i / 100, 0.1) for i in range(25)]
    text = comment([with_diff(layer_diff(FASTER, *many))])
    rows = [line for line in text.splitlines() if "`layer" in line]
    assert len(rows) == 10
    assert rows[0].startswith("| `layer24` | slower | 0.100 ms | 0.440 ms | +0.340 ms |")
    assert "16 more not shown." in text
    assert "`layer0`" in summary([with_diff(layer_diff(FASTER, *many))])


def test_layers_are_dropped_before_the_verdict_is() -> None:
    evidence = samples.layered()
    full = comment([evidence])
    assert TITLE in full
    less = comment([evidence], budget=3_000)
    assert TITLE not in less
    assert "differences of layers" in less.partition("Left out for length")[2]
    assert "layers" not in comment([samples.regressed()], budget=3_000).partition("Left out for length")[2]


def test_the_page_has_every_layer_and_pictures() -> None:
    page = html([samples.layered()])
    for words in (
        "Where time is lost and won",
        "Slowest layers of head",
        "conv2 + conv2.relu + 29 more",
        "lost fusion",
    ):
        assert words in page
    assert page.count("<h2>Layers</h2>") == 1
    assert "<script" not in page
    assert "<h2>Layers</h2>" not in html([samples.regressed()])
    assert "sm80_xmma" not in comment([samples.layered()])


def test_precision_says_what_the_layers_say() -> None:
    assert "| time of products in it, or cheaper | 98.0 % | 98.0 % |" in comment([samples.layered()])
    assert "time of products" not in comment([samples.regressed()])


def printed(evidence: Evidence) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(terminal(evidence))
    return capture.get()


def test_the_terminal_names_layers_where_head_is_slower() -> None:
    told = printed(samples.layered())
    assert "Layers that cost most:" in told
    assert "conv1 + conv1.relu: lost fusion, slower, +30.0 µs (1 → 2 layers" in told
    assert "conv2 + conv2.relu" not in told  # that one won time
    unhurt = samples.layered().model_copy(update={"comparison": samples.comparison()})
    assert "Layers that cost" not in printed(unhurt)


@pytest.mark.parametrize(
    ("delta", "shown"), [(0.0412, "+41.2 µs"), (-1.5, "−1.50 ms"), (0.0, "0 ms"), (None, "–"), (1e300, "+1.0e+297 s")]
)
def test_differences_are_signed(delta: float | None, shown: str) -> None:
    assert difference(delta) == shown


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300])
def test_absurd_times_are_drawn(value: float) -> None:
    changes: list[Any] = [change("a", ["slower"], value, 0.0), change("b", ["faster"], 0.0, value)]
    report = samples.layer_report(layers=[samples.layer("a", value, share=1.0)], total_ms=value)
    evidence = with_diff(layer_diff(*changes), samples.layered())
    head = samples.side(layers=report)
    assert TITLE in html([evidence.model_copy(update={"head": head})])
