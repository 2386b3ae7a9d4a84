"""What people see of a trend, also of one that strangers wrote."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.history.samples import level, points, run
from tests.report import chrome
from trt_action.evidence import Evidence, Source
from trt_action.history import html, markdown, series
from trt_action.history.points import Point, point

HOSTILE = "</title><script>alert(1)</script>‮`|x|`\n```\n<!-- @octocat #1 https://evil.example \x1b[31m"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes += attrs


def trend(n: int = 30) -> list[Point]:
    values = level(n)
    values[n * 2 // 3 :] *= 1.06
    return points(values)


def hostile() -> list[Point]:
    made = []
    for number in range(12):
        one = run(
            number,
            settings={"name": HOSTILE},
            source=Source(commit=HOSTILE, ref=HOSTILE, repository=HOSTILE),
            host={
                "gpu": {"name": HOSTILE, "driver": f"{HOSTILE}{number // 6}"},
                HOSTILE: HOSTILE * 50 + str(number // 6),
            },
        )
        taken = point(Evidence.model_validate(one), HOSTILE)
        assert isinstance(taken, Point)
        made.append(taken)
    return made


def test_the_page_stands_alone_and_marks_what_changed() -> None:
    page = html(series(trend()), ["a note"])
    assert "+6." in page
    assert "worse" in page
    assert "a note" in page
    tags = Tags()
    tags.feed(page)
    assert not tags.found & {"script", "iframe", "img", "object", "form"}
    assert all(
        not (value or "").startswith(("http", "//")) for name, value in tags.attributes if name in ("href", "src")
    )
    assert page.count("<figure>") == 5


def test_texts_of_strangers_stay_texts() -> None:
    page = html(series(hostile()), [HOSTILE])
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found
    assert not any(name.startswith("on") for name, _ in tags.attributes)
    assert "\x1b" not in page
    assert "\u202e" not in page
    text = markdown(series(hostile()), [HOSTILE])
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table").render(text)
    tags = Tags()
    tags.feed(rendered)
    assert not tags.found & {"script", "a", "h1", "table"}
    assert "@octocat" not in text
    assert "\u202e" not in text
    (fence,) = re.findall(r"```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert "script" not in fence


def test_its_size_is_bounded() -> None:
    made = [point(run(n % 7, settings={"name": f"{n} " + "x" * 900}), "x" * 900) for n in range(60)]
    many = [one for one in made if isinstance(one, Point)]
    long = points(level(600))
    page = html(series([*many, *long]), ["n" * 300] * 20)
    assert len(page) < 4_000_000
    assert "more trends are not shown" in page
    (found,) = series(long)
    assert len(found.points) == 500
    text = markdown(series([*many, *long]))
    assert len(text.encode()) < 60_000
    assert "57 more trends not shown." in text


def test_the_chart_of_a_summary_is_plain_mermaid() -> None:
    (text,) = re.findall(r"```mermaid\n(.*?)\n```", markdown(series(trend(50))), re.DOTALL)
    lines = text.splitlines()
    assert lines[1] == "xychart-beta"
    labels = re.findall(r'"([0-9a-f]{8})"', lines[3])
    assert len(labels) == 40
    numbers = [json.loads(line.strip().removeprefix("line ")) for line in lines if line.strip().startswith("line")]
    low, high, middle = numbers
    assert all(a < b < c for a, b, c in zip(low, middle, high, strict=True))
    bottom, top = (float(x) for x in re.findall(r"[\d.]+(?= -->)|(?<=--> )[\d.]+", lines[4]))
    assert bottom <= min(low)
    assert max(high) <= top


def test_two_runs_are_no_chart_and_one_is_no_trend() -> None:
    assert "mermaid" not in markdown(series(points([0.3, 0.3])))
    assert "a trend begins with the second" in html(series(points([0.3])))


def test_who_cannot_see_a_change_does_not_say_that_there_is_none() -> None:
    seen, blind = "No change of level.", "6 comparable runs are the least to see a change."
    assert seen in markdown(series(points([0.3] * 6)))
    assert blind in markdown(series(points([0.3] * 5)))
    elsewhere = points([0.3] * 11, host={"cpu": "another"})[6:]
    assert seen in markdown(series(points([0.3] * 6) + elsewhere))
    assert blind in markdown(series(points([0.3] * 5) + elsewhere))


@pytest.mark.browser
@pytest.mark.skipif(bool(chrome.missing()), reason=chrome.missing())
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it_without_a_complaint(tmp_path: Path, scheme: str) -> None:
    page = tmp_path / "history.html"
    page.write_text(html(series([*trend(), *hostile()])))
    with chrome.browser(tmp_path) as browser:
        browser.show(page, scheme=scheme)  # type: ignore[arg-type]
        assert browser.evaluate("document.querySelectorAll('svg circle').length") > 100
        assert browser.evaluate("document.scripts.length") == 0
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert browser.console() == []
        assert (sum(map(int, re.findall(r"\d+", background))) < 200) is (scheme == "dark")
