"""The report page: what it holds, that it needs nothing, and how a real browser shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.report import chrome, samples
from trt_action.engine import kept
from trt_action.evidence import Estimate, Evidence
from trt_action.measure.series import pack
from trt_action.report import charts, html, traces
from trt_action.report.svg import Scale
from trt_action.report.traces import Duet

FIGURES = ("Estimates with their intervals", "Difference of each pair", "Median of each block", "Distribution",
           "By percentile", "In the order taken", "Task metric with its interval", "Time line")  # fmt: skip


def test_a_full_page_has_every_figure_and_section() -> None:
    page = html([samples.passed()])
    assert all(f"<b>{title}</b>" in page for title in FIGURES)
    for title in (
        "Gates (5)",
        "Precision achieved",
        "How head and base were compared",
        "Latency in detail",
        "Settings",
    ):
        assert f"<h2>{title}</h2>" in page


@pytest.mark.parametrize("sample", sorted(samples.ALL))
def test_a_page_is_one_file_without_script(sample: str) -> None:
    page = html([samples.ALL[sample]()])
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:,|#)""", page)
    assert "url(" not in page
    assert "@import" not in page


def test_several_runs_are_on_one_page() -> None:
    page = html([samples.passed(), samples.regressed(), samples.error()])
    assert page.count("<article") == 3
    assert "2 of 3 runs: digits, digits" in page


def test_the_same_page_comes_from_the_json() -> None:
    evidence = samples.regressed()
    assert html([Evidence.model_validate_json(evidence.model_dump_json())]) == html([evidence])


BROKEN: dict[str, dict[str, Any]] = {
    "lengths differ": {"head": pack([1, 2, 3], "ns")},
    "unit without blocks": {"unit": pack([7] * samples.PAIRS, "index")},
    "no iterations": {"block_iterations": [0, 0]},
    "zero time": {"head": pack([0] * samples.PAIRS * samples.BLOCK, "ns")},
    "empty": {"head": pack([], "ns"), "base": pack([], "ns"), "unit": pack([], "index")},
    "not base64": {"head": pack([1], "ns").model_copy(update={"data": "%%%"})},
    "announces too much": {"head": pack([1], "ns").model_copy(update={"n": 10**13})},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_series_costs_its_drawing_only(name: str) -> None:
    whole = samples.comparison()
    assert whole.series
    broken = whole.model_copy(update={"series": whole.series.model_copy(update=BROKEN[name])})
    page = html([samples.passed(comparison=broken)])
    assert "<b>Difference of each pair</b>" not in page
    assert "<b>Distribution</b>" in page


def test_evidence_without_series_has_a_page_without_their_drawings() -> None:
    """As an image carries it."""
    page = html([kept.without_series(samples.passed())])
    assert "In the order taken" not in page
    assert "Estimates with their intervals" in page


def test_pairs_are_the_medians_of_their_blocks() -> None:
    series = samples.duet(1.0).model_copy(
        update={
            "block_iterations": [3, 1],
            "unit": pack([0, 1, 0], "index"),
            "head": pack([1_000_000, 9_000_000, 2_000_000, 5_000_000, 7_000_000, 8_000_000, 6_000_000], "ns"),
            "base": pack([1_000_000] * 7, "ns"),
        }
    )
    found = traces.duet(samples.comparison().model_copy(update={"series": series}))
    assert found is not None
    assert found.head_ms.tolist() == [2.0, 5.0, 7.0]
    assert found.ratio.tolist() == [2.0, 5.0, 7.0]


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
TIMES = arrays.arrays(np.float64, st.integers(1, 400), elements=st.floats(1e-6, 1e6))
NUMBERS = re.compile(r'(?:nan|inf)[" ,]')


@settings(max_examples=20, deadline=None)
@given(TIMES, TIMES, st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_every_series_can_be_drawn(base: Any, head: Any, ratio: float, half: float) -> None:
    sides = {"base": base, "head": head}
    n = min(len(base), len(head))
    pairs = Duet(head[:n], base[:n], np.zeros(n, dtype=np.int64))
    estimate = Estimate(estimate=ratio, low=ratio - half, high=ratio + half, confidence=0.99)
    drawings = [
        charts.distribution(sides, {"head": {"p50": float(np.median(head))}}),
        charts.tail(sides),
        charts.over_time(sides, "t", "sample", [1]),
        charts.paired(pairs, estimate, 0.005, 0.02, None),
        charts.intervals([("head", ratio, ratio - half, ratio + half)], "t", "l", str, (-1, 1)),
    ]
    for drawing in drawings:
        assert drawing.startswith("<svg ")
        assert not (found := NUMBERS.search(drawing)), drawing[found.start() - 60 : found.end()]
        assert all(-1 <= float(x) <= 721 for x in re.findall(r' c?x[12]?="([^"]+)"', drawing))


@settings(max_examples=60)
@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_lie_inside_the_axis(low: float, span: float) -> None:
    scale = Scale(low, low + span, 0, 100)
    ticks = scale.ticks()
    assert len(ticks) <= 12
    assert all(
        low - 1e-6 * max(1, abs(low), span) <= tick <= low + span + 1e-6 * max(1, abs(low), span) for tick in ticks
    )


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_in_both_schemes() -> None:
    style = html([samples.error()])
    schemes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]+)\}", style)]
    assert len(schemes) == 3
    for colours in schemes:
        for ink in ("ink", "quiet", "passed", "failed", "inconclusive", "not-checked", "head", "base", "link"):
            if ink in colours:
                for ground in ("page", "card", "code"):
                    assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, colours[ink])


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chrome.Browser]:
    if reason := chrome.missing():
        pytest.skip(reason)
    with chrome.browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(html([samples.regressed(), samples.error(), samples.no_base()]))
    return path


@pytest.mark.browser
def test_light_and_dark_really_differ(chromium: chrome.Browser, page: Path) -> None:
    grounds, shots = {}, {}
    for scheme in SCHEMES:
        chromium.show(page, scheme=scheme)
        found = chromium.evaluate(
            "['body', '.verdict h1', 'svg polyline.head', 'svg text'].map(q => { const s = getComputedStyle("
            "document.querySelector(q)); return [s.backgroundColor, s.color, s.stroke, s.fill].join(' ') })"
        )
        grounds[scheme], shots[scheme] = found, chromium.screenshot()
    assert all(light != dark for light, dark in zip(grounds["light"], grounds["dark"], strict=True)), grounds
    assert "rgb(246, 247, 249)" in grounds["light"][0]
    assert "rgb(15, 18, 23)" in grounds["dark"][0]
    assert all(shot.startswith(b"\x89PNG") and len(shot) > 50_000 for shot in shots.values())


@pytest.mark.browser
def test_the_page_complains_of_nothing_and_asks_for_nothing(chromium: chrome.Browser, page: Path) -> None:
    chromium.console()
    chromium.requests()
    chromium.show(page)
    assert chromium.evaluate("document.readyState") == "complete"
    assert chromium.console() == []
    assert [url for url in chromium.requests() if not url.startswith("data:")] == [page.as_uri()]


@pytest.mark.browser
def test_a_forbidden_request_would_be_noticed(chromium: chrome.Browser, tmp_path: Path) -> None:
    """The test above can fail: the policy of the page stops an image from elsewhere, and the browser says so."""
    path = tmp_path / "bad.html"
    path.write_text(html([samples.error()]).replace("<main>", "<main><img src='http://127.0.0.1:9/x.png' alt=''>"))
    chromium.console()
    chromium.show(path)
    assert any("Content Security Policy" in message for message in chromium.console())


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_sticks_out(chromium: chrome.Browser, page: Path, width: int) -> None:
    chromium.show(page, width=width)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    overlapping = chromium.evaluate(
        "[...document.querySelectorAll('svg')].filter(s => { const box = s.getBoundingClientRect(); return "
        "[...s.querySelectorAll('text')].some(t => { const b = t.getBoundingClientRect(); "
        "return b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1 }) }).length"
    )
    assert overlapping == 0


@pytest.mark.browser
def test_everything_is_named_for_a_screen_reader(chromium: chrome.Browser, page: Path) -> None:
    chromium.show(page)
    unnamed = chromium.evaluate(
        "[...document.querySelectorAll('svg')].filter(s => s.getAttribute('role') !== 'img' || !s.getAttribute('aria-label')).length"
        " + [...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope=col]')).length"
        " + (document.documentElement.lang ? 0 : 1) + (document.querySelectorAll('h1').length === 1 ? 0 : 1)"
    )
    assert unnamed == 0


@pytest.mark.browser
def test_paper_shows_what_is_folded(chromium: chrome.Browser, page: Path) -> None:
    chromium.show(page, media="print")
    hidden = chromium.evaluate(
        "[...document.querySelectorAll('details:not([open]) table')].filter(t => t.getBoundingClientRect().height === 0).length"
    )
    assert hidden == 0
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
