"""What evidence says to a workflow: outputs, and annotations beside the line that sets a gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.runner import Annotation, Step
from tests.report import samples
from trt_action import results
from trt_action.draft import error_info
from trt_action.errors import SettingsError
from trt_action.github.commands import Annotations
from trt_action.results import OUTPUTS, Written

FILES = Written((Path("out/evidence.json"),), Path("out/report.html"))


def test_outputs_of_one_model() -> None:
    one = samples.passed()
    assert one.head
    assert one.head.latency
    values = results.outputs([one], FILES, "https://github.example/c")
    assert set(values) == set(OUTPUTS)
    assert values["outcome"] == "passed"
    assert values["p99-ms"] == pytest.approx(one.head.latency.p99_ms)
    assert values["engine"] == one.head.engine.sha256
    assert values["evidence"] == "out/evidence.json"
    assert values["image"] is None, "nothing was published"
    assert values["json"]["models"][0]["verdict"] == values["verdict"] == "improved"


def test_outputs_of_several_models_are_the_worst_and_a_list() -> None:
    values = results.outputs([samples.passed(), samples.regressed(), samples.error()], FILES, None)
    assert values["outcome"] == "failed"
    assert values["p50-ms"] is None
    assert [one["outcome"] for one in values["json"]["models"]] == ["passed", "failed", "failed"]


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_outputs_of_every_kind_of_run(name: str) -> None:
    assert set(results.outputs([samples.ALL[name]()], FILES, None)) == set(OUTPUTS)


def annotated(capfd: pytest.CaptureFixture[str]) -> list[Annotation]:
    return Step(0, capfd.readouterr().out, None, {}, "").annotations


def test_a_broken_gate_is_beside_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / ".trt-action.yml"
    config.write_text("model: a.onnx\n\nmax-latency-regression: 2%\n")
    results.annotate(Annotations(), samples.regressed(), tmp_path, config, report_only=False)
    (error,) = [one for one in annotated(capfd) if "max-latency-regression failed" in one.properties["title"]]
    assert error.level == "error"
    assert (error.properties["file"], error.properties["line"]) == (".trt-action.yml", "3")
    results.annotate(Annotations(), samples.regressed(), tmp_path, config, report_only=True)
    assert "error" not in {one.level for one in annotated(capfd)}


def test_an_error_is_beside_the_line_that_it_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yml").write_text("")
    for what, expected in (
        ("`precision` is `int9` (a.yml, line 4).", {"file": "a.yml", "line": "4"}),
        ("`precision` is `int9` (b.yml, line 4).", {}),
        ("No model.", {}),
    ):
        results.annotate_error(Annotations(), error_info(SettingsError(what)), tmp_path)
        (error,) = annotated(capfd)
        assert {key: value for key, value in error.properties.items() if key != "title"} == expected
        assert "trt-action run --help" in error.message
