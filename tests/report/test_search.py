"""How a search is shown: one line, the trials, and lines that can be committed whatever the nodes are called."""

from __future__ import annotations

import html as html_library
import io
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.report import samples
from trt_action.console import PlainConsole, TerminalConsole
from trt_action.evidence import Evidence
from trt_action.report import comment, html, summary, terminal
from trt_action.report.search import to_commit
from trt_action.search_records import LayerError, Search, SearchTrial

NASTY = [
    "conv4",
    "a: b",
    "- x",
    "'quoted\" `ticks`",
    "</details>@team",
    "#1",
    "null",
    "e\u202egnp",
    "  spaced  ",
    "{%x%}|",
    "ü" * 60,
    "é世界 😀",
    "/encoder/layer.0/" + "attention/" * 20 + "MatMul",
    "many words " * 20,
    "##[error]::warning::x",
]


def searched(**changes: Any) -> Search:
    kept: list[str] = changes.pop("kept", ["conv4"])
    values: dict[str, Any] = {
        "asked": "keep-accuracy",
        "rule": "loses at most 0.5 points against reference",
        "data": "validation",
        "samples": 600,
        "found": True,
        "precision": "int8",
        "kept": kept,
        "kept_layers": len(kept),
        "layers": 54,
        "exclude_nodes": ["first", *kept],
        "trials": [
            SearchTrial(precision="int8", kept=0, holds=False, metric=0.093, error=1.0, share=1.0, seconds=2.0),
            SearchTrial(precision="int8", kept=1, holds=True, metric=0.99, error=0.0128, share=0.87, seconds=2.0),
        ],
        "sensitivity": [LayerError(name="conv4", error=0.9998), LayerError(name="conv1", error=None)],
        "seconds": 4.2,
    }
    return Search(**values | changes)


def evidence(search: Search) -> Evidence:
    found = samples.passed()
    assert found.head is not None
    engine = found.head.engine.model_copy(update={"search": search})
    return found.model_copy(update={"head": found.head.model_copy(update={"engine": engine})})


def on_terminal(found: Evidence, kind: type[PlainConsole | TerminalConsole] = PlainConsole) -> str:
    stream = io.StringIO()
    kind(stream, {}).show(terminal(found))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "int8 with 1 of 54 layers kept in higher precision (conv4); 2 recipes tried in 4.2 s"),
        ({"kept": [], "layers": 0}, "int8 holds as it is (2 recipes tried in 4.2 s)"),
        (
            {"kept": ["a", "b", "c", "d"]},
            "int8 with 4 of 54 layers kept in higher precision (a, b, c, …); 2 recipes tried in 4.2 s",
        ),
        (
            {"found": False, "kept": []},
            "nothing that was tried holds the accuracy gates; built as int8 (2 recipes tried in 4.2 s)",
        ),
    ],
)
def test_one_line_everywhere(changes: dict[str, Any], line: str) -> None:
    found = evidence(searched(**changes))
    assert f"Search: {line}" in comment([found])
    assert f"Search: {line}" in html_library.unescape(html([found]))
    assert f"Search: {line}" in on_terminal(found)


def test_no_search_no_word() -> None:
    for text in (comment([samples.passed()]), html([samples.passed()]), on_terminal(samples.passed())):
        assert "Search" not in text
        assert "To commit" not in text


def test_trials_and_layers_are_tables() -> None:
    text = summary([evidence(searched())])
    assert "| int8 | ❌ does not hold | 0.09300 | 1.00 | 100.0 % | 2.0 s |  |" in text
    assert "| int8, 1 layer kept | ✅ holds | 0.9900 | 0.0128 | 87.0 % | 2.0 s |  |" in text
    assert "| `conv4` | 1.00 | kept |" in text
    assert "| `conv1` | – |  |" in text
    assert "Decided on 600 samples (validation data)" in text


@pytest.mark.parametrize("kind", [PlainConsole, TerminalConsole])
def test_lines_to_commit_are_read_back_as_the_names_were(
    kind: type[PlainConsole | TerminalConsole], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    search = searched(kept=NASTY)
    read = yaml.safe_load("\n".join(to_commit(search)))
    assert read == {"precision": "int8", "exclude-nodes": ["first", *NASTY]}
    shown = on_terminal(evidence(search), kind).partition("To commit, instead of searching again:\n")[2]
    lines = [line[2:].rstrip() for line in shown.splitlines()[: 3 + len(NASTY)]]
    assert yaml.safe_load("\n".join(lines)) == read
    assert "\u202e" not in shown
    assert "##[" not in shown


@pytest.mark.parametrize("shown", [comment, summary, html])
def test_names_to_commit_are_whole(shown: Callable[[list[Evidence]], str]) -> None:
    """Half a name fits no node."""
    for kept in (["x" * 500], ["y" * 900], [f"{'z' * 400}{i}" for i in range(12)]):
        text = shown([evidence(searched(kept=kept))])
        assert all(name in text for name in kept)


def test_a_precision_that_holds_as_it_is_is_all_there_is_to_commit() -> None:
    text = summary([evidence(searched(kept=[], layers=0, exclude_nodes=[]))])
    assert "To commit, instead of searching again: `precision: int8`.\n" in text


def test_nothing_found_nothing_to_commit() -> None:
    found = evidence(searched(found=False, kept=[]))
    assert "To commit" not in on_terminal(found)
    assert "To commit" not in summary([found])


def test_many_names_are_a_table() -> None:
    text = summary([evidence(searched(kept=[f"node{i}" for i in range(40)]))])
    assert "and these `exclude-nodes`" in text
    assert "| `node39` |" in text
