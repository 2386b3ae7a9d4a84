"""The gates as test cases: JUnit's XML, which CI hosts show beside a merge request.

Read by GitLab as https://docs.gitlab.com/ci/testing/unit_test_reports/ describes (tests/report/junit.xsd is that in a schema):
a case is known by its class and name, so both are the same from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from trt_action.evidence import Evidence, Gate
from trt_action.report.escape import clean, clip
from trt_action.report.headline import distinct_names

MAX_TEXT = 20_000
MAX_NAME = 250


def junit(evidences: Sequence[Evidence]) -> str:
    """One suite per run, one case per gate, and the case `run`, which an error breaks. A gate that is undecided or was
    not checked is a skipped case, unless `on-inconclusive` is `fail`."""
    root = ET.Element("testsuites", name="trt-action")
    for name, one in zip(distinct_names(evidences, MAX_NAME - 10), evidences, strict=True):
        _suite(root, name, one)
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False).join(_FRAME)


_FRAME = ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")


def _suite(root: ET.Element, foreign: str, evidence: Evidence) -> None:
    name = _line(foreign, MAX_NAME) or "model"
    seconds = sum(stage.seconds for stage in evidence.stages)
    suite = ET.SubElement(root, "testsuite", name=name, time=f"{seconds:.3f}", timestamp=_line(evidence.created, 40))
    run = ET.SubElement(suite, "testcase", classname=name, name="run", time=f"{seconds:.3f}")
    if evidence.error:
        what = ET.SubElement(
            run, "error", type=_line(evidence.error.type, 100), message=_line(evidence.error.what, 1_000)
        )
        what.text = _text("\n".join(p for p in (evidence.error.what, evidence.error.why, evidence.error.fix) if p))
    strict = evidence.settings.get("on-inconclusive") == "fail"
    for gate in evidence.gates:
        _case(suite, name, gate, strict=strict)
    for count, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(sum(1 for _ in suite.iter(tag))))


def _case(suite: ET.Element, classname: str, gate: Gate, *, strict: bool) -> None:
    title = _line(f"{gate.name}: {gate.rule}" if gate.rule else gate.name, MAX_NAME)
    case = ET.SubElement(suite, "testcase", classname=classname, name=title, time="0")
    said = _text(f"observed {gate.observed}, limit {gate.limit}: {gate.reason}")
    message = _line(f"{gate.observed} ({gate.status}). {gate.reason}", 1_000)
    if gate.status == "failed" or (gate.status == "inconclusive" and strict):
        ET.SubElement(case, "failure", type=gate.status, message=message).text = said
    elif gate.status == "passed":
        ET.SubElement(case, "system-out").text = said
    else:
        ET.SubElement(case, "skipped", message=message)


def _line(foreign: str, limit: int) -> str:
    return clip(clean(foreign), limit)


def _text(foreign: str) -> str:
    return clip(clean(foreign, lines=True), MAX_TEXT)
