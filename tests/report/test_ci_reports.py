"""JUnit and OpenMetrics: valid for their readers, whatever the evidence says."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.report import samples
from trt_action import cli, report
from trt_action.evidence import Evidence

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).with_name("junit.xsd")))
EVIL = "]]></failure><x a='\"'>&\x00\x0b\ufffe\U000e0001 {}=\n# EOF\nevil 1\n"


def families(text: str) -> list[Any]:
    """As Prometheus' own parser reads it."""
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def read(evidences: list[Evidence]) -> ET.Element:
    text = report.junit(evidences)
    SCHEMA.validate(text)
    return ET.fromstring(text)  # noqa: S314 - our own


def cases(root: ET.Element) -> dict[str, str]:
    """Name of a case → what became of it."""
    return {
        case.attrib["name"]: next((child.tag for child in case if child.tag != "system-out"), "passed")
        for case in root.iter("testcase")
    }


@pytest.mark.parametrize("name", samples.ALL)
def test_every_evidence_is_valid(name: str) -> None:
    one = samples.ALL[name]()
    assert len(cases(read([one]))) == len(one.gates) + 1
    figures = families(report.metrics([one]))
    assert all(family.type == "gauge" for family in figures)
    broken = next(family for family in figures if family.name == "trt_action_gates_failed")
    assert broken.samples[0].value == sum(gate.status == "failed" for gate in one.gates)


def test_a_case_per_gate() -> None:
    found = cases(read([samples.regressed()]))
    assert found["run"] == "passed"
    assert found["max-latency-regression: p50 not slower than base by more than 0.5 %"] == "failure"
    assert found["latency-threshold: p99 < 50 ms"] == "passed"


@pytest.mark.parametrize(("rule", "expected"), [("pass", "skipped"), ("fail", "failure")])
def test_what_is_undecided_follows_its_rule(rule: str, expected: str) -> None:
    one = samples.inconclusive()
    one = one.model_copy(update={"settings": {**one.settings, "on-inconclusive": rule}})
    undecided = [gate for gate in one.gates if gate.status == "inconclusive"]
    assert undecided
    found = cases(read([one]))
    assert all(found[f"{gate.name}: {gate.rule}"] == expected for gate in undecided)


def test_an_error_breaks_the_run() -> None:
    root = read([samples.error()])
    assert cases(root)["run"] == "error"
    assert (root.get("errors"), root.get("failures")) == ("1", "0")


def test_several_runs_of_one_model_stay_apart() -> None:
    runs = [samples.passed(), samples.regressed(), samples.passed()]
    assert [suite.get("name") for suite in read(runs)] == ["digits", "digits (2)", "digits (3)"]
    found = families(report.metrics(runs))
    assert all(len({str(one.labels) for one in family.samples}) == 3 for family in found)


def test_hostile_text_stays_text() -> None:
    gate = samples.gate(EVIL, EVIL, EVIL, EVIL, "failed", EVIL * 300)
    long = samples.gate("x" * 900, "y" * 900, "", "", "not-checked", "")
    evil = samples.passed(model=samples.model(EVIL), gates=[gate, long], settings={})
    root = read([evil])
    assert [case.tag for case in root.iter() if case.tag in ("x", "evil")] == []
    assert root.find(".//failure") is not None
    lines = report.metrics([evil]).splitlines()
    assert lines[-1] == "# EOF"
    assert all(
        (line.startswith(("#", "trt_action_")) and len(line.split(" ")) == 2) or line[0] == "#" for line in lines
    )
    assert families(report.metrics([evil]))


@pytest.mark.parametrize(("form", "begins"), [("junit", "<?xml"), ("metrics", "# TYPE")])
def test_render_makes_them_anywhere(form: str, begins: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = report.write_evidence(samples.passed(), tmp_path)
    assert cli.main(["render", str(path), "--format", form]) == 0
    assert capsys.readouterr().out.startswith(begins)
