"""Whatever a stranger writes into a model, a path or a log, the comment and the page keep their structure."""

from __future__ import annotations

import html as entities
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from tests.report import samples
from trt_action.evidence import Evidence
from trt_action.report import comment, html, summary, terminal
from trt_action.report.escape import code, prose, text

FIXED = {
    "schema_version", "outcome", "verdict", "status", "sha256", "calibration_sha256", "data_sha256", "digest", "data",
    "unit", "dtype", "precision", "asked", "p99_verdict", "limit_status", "drop_from", "metric", "source", "role", "kinds",
}  # fmt: skip
"""Fields whose values the schema fixes, or that decide which rows there are."""

NASTY = (
    "|", "||", "`", "```", "\n", "\n\n", "\r", "\t", "    ", "\\", "<", ">", "<script>alert(1)</script>", "<!--", "-->",
    "<!-- trt-action:comment id=default -->", "</details>", "<details>", "</pre>", "</code>", "</svg>", "</style>", "</title>",
    "@octocat", "@org/team", "a@b.c", "#123", "org/repo#1", "GH-12", "gh-7", "https://evil.example", "www.evil.example",
    "[a](https://b.example)", "![x](y)", "[a]: http://b.example", "*b*", "__b__", "~~s~~", "$x$", "- ", "1. ", "# ", "> ",
    "===", "---", "| --- |", "&lt;", "&#64;", "\u200b", "\u202e", "\u2066", "\x00", "\x1b[31m", "\x07", "%%{init: {}}%%", '"',
    "'", "{{ marker }}", "{% raw %}", "[1, 2](x)", "[1, 2]: x", "[^1]", ":tada:", "javascript:alert(1)", "]]>", "&",
)  # fmt: skip

foreign = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=8)), min_size=1, max_size=6).map("".join)


def replace(value: Any, write: Callable[[str], str], key: str = "") -> Any:
    """The same JSON with every free text replaced; keys of free-form tables too."""
    if isinstance(value, dict):
        free = key in ("settings", "hardware", "software", "runtime", "hygiene", "nodes", "by_precision")
        return {
            (f"{i} {write(k)}"[:999] if free else k): replace(v, write, k) for i, (k, v) in enumerate(value.items())
        }
    if isinstance(value, list):
        return [replace(v, write, key) for v in value]
    if (
        isinstance(value, str)
        and key not in FIXED
        and not (key == "name" and value in ("trt-action", *samples.GATE_NAMES))
    ):
        return write(value)[:999]
    return value


def rewritten(evidence: Evidence, write: Callable[[str], str]) -> Evidence:
    json = evidence.model_dump(mode="json")
    changed = replace({k: v for k, v in json.items() if k not in ("comparison", "shapes")}, write)
    for role in ("head", "base"):
        if json[role]:
            changed[role]["model"]["shapes"] = {}
            changed[role]["latency"] = json[role]["latency"]
    if changed["model"]:
        changed["model"]["shapes"] = {}
    if json["comparison"]:
        reasons = {"reason": write("reason")[:999], "warnings": [write("w")[:999]]}
        changed["comparison"] = json["comparison"] | reasons
    return Evidence.model_validate(changed)


def markdown_structure(source: str) -> Counter[str]:
    """How many of each block and inline element the Markdown makes."""
    found: Counter[str] = Counter()
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source):
        kinds = [token.type, *(child.type for child in token.children or ())]
        # Code spans and their HTML form are the same to a reader, and depend on the text.
        found.update(k for k in kinds if k not in ("text", "code_inline", "html_inline", "softbreak"))
        found.update(
            tag for c in token.children or () if c.type == "html_inline" for tag in [c.content] if "code" not in tag
        )
    return found


def visible_texts(source: str) -> list[str]:
    """Rendered text outside of code, as GitHub's filters for mentions and references see it."""
    texts = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source):
        inside_code = 0
        for child in token.children or ():
            if child.type == "html_inline":
                inside_code += {"<code>": 1, "</code>": -1}.get(child.content, 0)
            elif child.type == "text" and not inside_code:
                texts.append(child.content)
        if token.type == "html_block":
            plain = re.sub(r"<(pre|code)>.*?</\1>", "", token.content, flags=re.DOTALL)
            texts.append(entities.unescape(re.sub(r"<[^>]*>", "", plain)))
    return texts


LINKED = re.compile(r"@\w|#\w|\bGH-\d|://|\bwww\.", re.IGNORECASE)
"""What GitHub would turn into a mention, a reference or a link."""


def writer(texts: Sequence[str]) -> Callable[[str], str]:
    """Gives every field a text of its own (equal notes would be shown once), taken from `texts` in turn."""
    numbers = itertools.count()
    return lambda _: f"x{next(numbers)}{texts[next(numbers) % len(texts)]}"


@pytest.mark.parametrize("sample", ["regressed", "layered", "error", "no_base"])
@settings(max_examples=12, deadline=None)
@given(texts=st.lists(foreign.map(lambda s: re.sub(r"\s", " ", s)), min_size=1, max_size=5))
def test_foreign_text_changes_no_structure(sample: str, texts: list[str]) -> None:
    evidence = samples.ALL[sample]()
    hostile, tame = rewritten(evidence, writer(texts)), rewritten(evidence, writer([""]))
    for ours, theirs in (
        (comment([hostile]), comment([tame])),
        (comment([hostile, hostile]), comment([tame, tame])),
        (summary([hostile]), summary([tame])),
    ):
        assert markdown_structure(ours) == markdown_structure(theirs)
    check_text(comment([hostile]))


@pytest.mark.parametrize("sample", ["regressed", "layered", "error"])
@settings(max_examples=12, deadline=None)
@given(texts=st.lists(foreign, min_size=1, max_size=5))
def test_text_of_several_lines_forges_nothing(sample: str, texts: list[str]) -> None:
    source = comment([rewritten(samples.ALL[sample](), lambda _: texts[0] + texts[-1])])
    check_text(source)
    assert source.count("| --- |") == comment([samples.ALL[sample]()]).count("| --- |")


def check_text(source: str) -> None:
    assert source.startswith("<!-- trt-action:comment id=default -->\n")
    assert source.count("<!--") == source.count("-->") - source.count("0 -->") == 1
    assert source.lower().count("<script") == 0
    assert source.count("<details") == source.count("</details>")
    assert source.count("```") in (0, 2)
    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", source)
    for visible in visible_texts(source):
        assert not LINKED.search(visible), visible


class Structure(HTMLParser):
    """Counts elements and remembers every attribute of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # How many <code> and <pre> or <p> there are depends on the text, as does a tooltip.
        if tag not in ("code", "pre", "p"):
            self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("sample", ["regressed", "layered", "error", "no_labels"])
@settings(max_examples=8, deadline=None)
@given(texts=st.lists(foreign, min_size=1, max_size=5))
def test_foreign_text_adds_no_element_to_the_page(sample: str, texts: list[str]) -> None:
    evidence = samples.ALL[sample]()
    hostile = Structure(html([rewritten(evidence, writer(texts))]))
    tame = Structure(html([rewritten(evidence, writer([""]))]))
    assert hostile.tags == tame.tags
    assert hostile.attributes == tame.attributes
    assert not {name for name in hostile.attributes if name.startswith("on")}
    assert not hostile.tags["script"]


@settings(max_examples=25, deadline=None)
@given(foreign)
def test_foreign_text_sends_nothing_to_the_terminal(nasty: str) -> None:
    hostile = rewritten(samples.error(), lambda _: nasty)
    console = Console(width=100, record=True, force_terminal=False, file=None, quiet=False)
    with console.capture() as captured:
        console.print(terminal(hostile))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\x9b\u202a-\u202e\u2066-\u2069]", captured.get())


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("p99 < 50 ms", "p99 < 50 ms"),
        ("+2.1 % [1.8, 2.4]", "+2.1 % [1.8, 2.4]"),
        ("+0.1 % [-1.8, 2.4]", "+0.1 % [-1.8, 2.4]"),
        ("snake_case", "snake_case"),
        ("_b_", "&#95;b&#95;"),
        ("[1, 2](x)", "&#91;1, 2&#93;(x)"),
        ("1. one", "1&#46; one"),
        ("1.5 ms", "1.5 ms"),
        ("- one", "&#45; one"),
        ("a\nb", "a b"),
        ("@octocat", "&#64;&#8203;octocat"),
        ("#12", "&#35;&#8203;12"),
        ("https://x.example", "https:&#8203;//x.example"),
        ("user\u202egnp", "usergnp"),
    ],
)
def test_text(raw: str, written: str) -> None:
    assert text(raw) == written


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("resnet50/int8.onnx", "`resnet50/int8.onnx`"),
        ("a|b", "<code>a&#124;b</code>"),
        ("", "–"),
        ("https://x", "<code>https&#58;//x</code>"),
    ],
)
def test_code(raw: str, written: str) -> None:
    assert code(raw) == written


def test_backticks_in_prose_are_code_and_an_odd_one_is_not() -> None:
    assert prose("Raise `max-seconds` now") == "Raise `max-seconds` now"
    assert prose("odd ` one") == "odd &#96; one"
