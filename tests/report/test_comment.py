"""The comment and the summary: what a reader meets first, what is said when parts are missing, and the byte budget."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trt_action
from tests.report import samples
from trt_action.errors import SettingsError, TrtActionError
from trt_action.evidence import Evidence
from trt_action.report import comment, marker, summary
from trt_action.report.markdown import DROP_ORDER


def verdict(text: str) -> str:
    return text.splitlines()[2]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("passed", "✅ **Passed** · 12.3 % faster than base (p50 0.412 ms → 0.361 ms) · top-1 unchanged at 98.9 %"),
        (
            "regressed",
            "❌ **Failed** · 3 of 5 gates: max-latency-regression, max-accuracy-drop, min-accuracy · "
            "5.4 % slower than base (p50 0.412 ms → 0.434 ms) · top-1 96.7 %, 2.2 points worse",
        ),
        (
            "inconclusive",
            "⚠️ **Inconclusive** · no clear answer on max-latency-regression · "
            "no clear latency verdict (p50 +1.1 % [−0.4, 2.6]) · top-1 unchanged at 98.9 %",
        ),
        ("within_noise", "✅ **Passed** · as fast as base (p50 +0.2 % [−0.3, 0.7]) · top-1 unchanged at 98.9 %"),
        (
            "no_base",
            "✅ **Passed** · 1 gate not checked: max-latency-regression · p50 0.361 ms, no base to compare with · "
            "top-1 98.6 %, no clear change against the FP32 reference",
        ),
        (
            "no_labels",
            "✅ **Passed** · 2 gates not checked: max-accuracy-drop, min-accuracy · "
            "12.3 % faster than base (p50 0.412 ms → 0.361 ms) · accuracy not checked",
        ),
        ("no_latency", "✅ **Passed** · latency not checked · top-1 unchanged at 98.9 %"),
    ],
)
def test_the_verdict_in_one_line(sample: str, expected: str) -> None:
    text = comment([samples.ALL[sample]()])
    assert text.startswith("<!-- trt-action:comment id=default -->\n")
    assert verdict(text) == expected


@pytest.mark.parametrize(
    ("sample", "ratio", "paired"), [("passed", True, True), ("no_base", False, False), ("no_latency", False, False)]
)
def test_where_a_difference_comes_from_is_said_where_there_is_one(sample: str, ratio: bool, paired: bool) -> None:
    text = comment([samples.ALL[sample]()])
    assert ("≈ marks the plain ratio" in text) == ratio
    assert ("need not be the ratio of the two times beside it" in text) == paired


def test_the_table_holds_base_head_difference_and_limit() -> None:
    text = comment([samples.regressed()])
    assert "| digits | base | head | difference | limit |" in text
    assert "| p50 | 0.412 ms | 0.434 ms | +5.4 % [4.8, 6.0] | ❌ ≤ 0.5 % |" in text
    assert re.search(
        r"\| p99 \| 2\.43 ms \[[^]]+\] \| 2\.04 ms \[[^]]+\] \| \+7\.5 % \[−0\.5, 15\.5\] \| ✅ < 50 ms \|", text
    )
    assert "| top-1 | 98.9 % | 96.7 % | −2.2 points [−3.7, −0.7] | ❌ ≤ 0.5 points, ≥ 97 % |" in text
    assert "Speed-up: 3.41× [3.35, 3.47] the speed of onnxruntime fp32 (cpu) (p50 1.23 ms)" in text


def test_a_run_without_rules_says_so() -> None:
    bare = {"outcome": "inconclusive", "comparison": None}
    assert "no rule was asked for" in comment([samples.passed(gates=[], **bare)])
    unchecked = [samples.gates("passed")[0].model_copy(update={"status": "not-checked"})]
    assert "no gate could be decided" in comment([samples.passed(gates=unchecked, **bare)])


def test_a_broken_gate_says_why_and_what_next() -> None:
    text = comment([samples.inconclusive()])
    line = next(line for line in text.splitlines() if line.startswith("- ⚠️ `max-latency-regression`"))
    assert "Reason: inconclusive." in line
    assert "*Next step:* Raise `max-seconds` or use a quieter host (about 900 more pairs needed, 3 min 45 s" in line


@pytest.mark.parametrize("sample", ["no_base", "no_labels", "no_latency"])
def test_what_was_not_checked_never_reads_as_passed(sample: str) -> None:
    for line in comment([samples.ALL[sample]()]).splitlines():
        if "not checked" in line and line.startswith("| "):
            assert "✅" not in line


def test_without_base_there_is_no_column_for_it() -> None:
    text = comment([samples.no_base()])
    assert "| digits | head | difference | limit |" in text
    assert "`main` has no model at this path: it is new." in text


def test_p99_never_stands_bare() -> None:
    few = samples.latency(n=60)
    few = few.model_copy(update={"intervals": dict(few.intervals) | {"p99": None}})
    text = comment([samples.passed(head=samples.side(latency=few))])
    assert "(n = 60: too few for an interval)" in text


def test_passes_that_contradict_the_comparison_are_called_out() -> None:
    text = comment([samples.passed(head=samples.side(p50_ms=0.43))])
    assert verdict(text).startswith("✅ **Passed** · 12.3 % faster than base · top-1")
    assert "The comparison decides" in text


def test_an_error_says_what_why_and_next_step() -> None:
    text = comment([samples.error()])
    assert verdict(text).startswith("🛑 **Stopped by an error** · Engine build failed · in stage build-head")
    assert "<pre>ONNX Runtime refused" in text
    assert "The operator `Frobnicate` is not in opset 21." in text
    assert "*Next step:* Export with another opset" in text


def test_an_outcome_never_hides_an_error() -> None:
    """Evidence may come from a stranger: `passed` beside an error is not a pass."""
    odd = samples.error().model_copy(update={"outcome": "passed"})
    assert "✅ **Passed**" not in comment([odd])
    assert "❌ **Failed** · 1 of 2 runs" in comment([odd, samples.passed()])


def test_several_runs_get_one_verdict_and_a_row_each() -> None:
    text = comment([samples.passed(), samples.regressed(), samples.inconclusive(), samples.error()])
    assert verdict(text) == "❌ **Failed** · 2 of 4 runs: digits, digits"
    rows = [line for line in text.splitlines() if line.startswith("| digits | ") and "EPYC" in line]
    assert [row.split(" | ")[3].split(" ", 1)[1] for row in rows] == [
        "Passed", "Failed", "Inconclusive", "Stopped by an error",
    ]  # fmt: skip
    assert text.count("<summary>✅ <b>digits</b>") == 1


@pytest.mark.parametrize("sample", sorted(samples.ALL))
def test_the_same_comment_comes_from_the_json(sample: str) -> None:
    evidence = samples.ALL[sample]()
    again = Evidence.model_validate_json(evidence.model_dump_json())
    assert comment([again]) == comment([evidence])
    assert summary([again]) == summary([evidence])


def test_the_summary_has_no_marker_and_more_rows() -> None:
    many = samples.passed(gates=[samples.gates()[0]] * 200)
    assert "<!--" not in summary([many])
    assert summary([many]).count("`latency-threshold`") == 200
    assert comment([many]).count("`latency-threshold`") == 40
    assert "160 more not shown." in comment([many])


def long_error(text: str) -> Evidence:
    """Longer than the schema allows: nobody validates what the pipeline itself puts together."""
    evidence = samples.error()
    assert evidence.error
    told = evidence.error.model_copy(update=dict.fromkeys(("what", "why", "fix"), text))
    return evidence.model_copy(update={"error": told})


ABSURD = {
    "gates": lambda: samples.passed(gates=samples.gates("failed") * 2_000, outcome="failed"),
    "long gates": lambda: samples.passed(
        gates=[samples.gate("x" * 1000, "`" * 1000, "|" * 1000, "@a" * 500, "failed", "<" * 20_000)] * 10_000,
        outcome="failed",
    ),
    "long error": lambda: long_error("@|`<\n" * 200_000),
    "warnings": lambda: samples.passed(warnings=["#1 " * 6_000] * 500),
    "settings": lambda: samples.passed(settings={f"key-{i}": "[" * 5_000 for i in range(5_000)}),
    "everything": lambda: samples.passed(
        model=samples.model("|" * 1000),
        warnings=["&" * 20_000] * 100,
        settings={str(i): "_" * 1000 for i in range(1000)},
    ),
}


@pytest.mark.parametrize("budget", [500, 3_000, 65_536])
@pytest.mark.parametrize("name", ABSURD)
def test_no_evidence_exceeds_the_budget(name: str, budget: int) -> None:
    evidence = ABSURD[name]()
    text = comment([evidence], budget=budget)
    assert len(text.encode()) <= budget
    assert text.startswith(marker() + "\n")
    assert re.match(r"^(✅ \*\*Passed|❌ \*\*Failed|🛑 \*\*Stopped)", verdict(text))
    assert len(summary([evidence], budget).encode()) <= budget


def test_sections_are_dropped_in_order_and_named() -> None:
    full = comment([samples.passed()])
    assert "Left out for length" not in full
    less = comment([samples.passed()], budget=len(full.encode()) - 1)
    assert "Left out for length: settings.</sub>" in less
    assert "<summary>Settings</summary>" not in less
    little = comment([samples.passed()], budget=1_500)
    assert "| p50 | 0.412 ms" in little
    assert (
        "Left out for length: settings, stages, host fingerprint, latency in detail, precision, chart, method" in little
    )


def test_many_models_fit() -> None:
    many = [samples.regressed()] * 300
    text = comment(many)
    assert len(text.encode()) <= 65_536
    assert verdict(text) == "❌ **Failed** · 300 of 300 runs: digits, digits, digits, …"
    assert len(comment(many, budget=600).encode()) <= 600


def template(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.md.j2"
    path.write_text(text)
    return path


def test_a_template_may_override_a_block(tmp_path: Path) -> None:
    mine = template(
        tmp_path,
        '{% extends "comment.md.j2" %}\n'
        "{% block verdict %}## Team Vision\n\n{{ super() }}{% endblock %}\n"
        "{% block settings %}{% endblock %}\n"
        "{% block footer %}Head is {{ view.evidence.head.label | code }} @ {{ view.evidence.head.label }}{% endblock %}",
    )
    hostile = samples.passed(head=samples.side(label="@octocat `x` | <b>"))
    text = comment([hostile], template=mine)
    assert text.startswith(marker())
    assert "## Team Vision\n\n✅ **Passed**" in text
    assert "<summary>Settings</summary>" not in text
    assert "&#64;&#8203;octocat &#96;x&#96; &#124; &#60;b&#62;" in text
    assert "@octocat" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hello", "does not start with the hidden marker"),
        ('{% extends "comment.md.j2" %}{% block marker %}{% endblock %}', "does not start with the hidden marker"),
        ("{{ marker }}{{ marker }}", "does not start with the hidden marker"),
        ("Hello {{ marker }}", "does not start with the hidden marker"),
        ("{{ marker }}{% if %}", "line 1"),
        ("{{ marker }}{{ nothing }}", "nothing"),
        ("{{ marker }}{{ views[0].secret }}", "secret"),
        ("{{ marker }}{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ marker }}{{ 1 / 0 }}", "division by zero"),
        ("{{ marker }}{{ views.append(1) }}", "unsafe"),
        ('{{ marker }}{% include "/etc/hostname" %}', "/etc/hostname"),
        ('{{ marker }}{% include "../report.html.j2" %}', "report.html.j2"),
        ("{{ marker }}{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_a_wrong_template_is_told_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        comment([samples.passed()], template=template(tmp_path, text))
    assert message in caught.value.what
    assert "mine.md.j2" in caught.value.what
    assert caught.value.fix


def test_an_unreadable_template_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.j2"):
        comment([samples.passed()], template=tmp_path / "absent.j2")
    (tmp_path / "binary.j2").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"binary\.j2"):
        comment([samples.passed()], template=tmp_path / "binary.j2")


def test_a_template_that_is_too_long_still_leaves_the_verdict(tmp_path: Path) -> None:
    text = comment([samples.passed()], template=template(tmp_path, "{{ marker }}\n" + "x" * 100_000))
    assert len(text.encode()) <= 65_536
    assert verdict(text).startswith("✅ **Passed** · 12.3 % faster")


@pytest.mark.parametrize("bad", ["", "a b", "x-->", "a--b", "é", "a" * 65, "-a", "a\n", "<"])
def test_a_comment_id_cannot_break_the_marker(bad: str) -> None:
    with pytest.raises(TrtActionError):
        marker(bad)


def test_a_comment_id_is_in_the_marker() -> None:
    assert comment([samples.passed()], comment_id="a100-int8").startswith("<!-- trt-action:comment id=a100-int8 -->\n")


def test_the_document_tells_the_blocks_and_the_drop_order() -> None:
    root = Path(trt_action.__file__).parent
    document = " ".join((root.parent / "docs" / "report.md").read_text().split())
    blocks = re.findall(r"{% block (\w+)", (root / "report" / "templates" / "comment.md.j2").read_text())
    assert len(blocks) > 15
    assert all(f"`{block}`" in document for block in blocks)
    told = document.partition("last line: ")[2]
    assert told.startswith(", ".join(list(DROP_ORDER.values())[:-2]))


def test_the_example_in_the_document_works(tmp_path: Path) -> None:
    document = (Path(trt_action.__file__).parents[1] / "docs" / "report.md").read_text()
    example = document.partition("```jinja\n")[2].partition("```")[0]
    text = comment([samples.passed()], template=template(tmp_path, example))
    assert "Questions? Ask the vision team." in text
    assert "<summary>Settings" not in text
    assert "<sub>`examples/digits/head.onnx` on AMD EPYC 9R14</sub>" in text
