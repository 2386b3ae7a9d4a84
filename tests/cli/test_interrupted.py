"""A run that is stopped from outside, or whose child is killed: an exit code, words, no process, no half-written file."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import onnx
import psutil
import pytest

from tests.cli.conftest import MARK, REPORT, Door, evidence, files
from trt_action.evidence import Evidence

COMMAND = ("run", "--cache", "false", "--max-seconds", "60s", "--measure-seconds", "30s", "--output", "out")


def reach(process: subprocess.Popen[str], line: str) -> None:
    """Read stderr until a line with these words."""
    assert process.stderr
    for text in process.stderr:
        if line in text:
            return
    raise AssertionError(f"the run ended before {line!r}")


def child(door: Door, process: subprocess.Popen[str], target: str) -> psutil.Process:
    """The child that serves `target`, once it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for candidate in door.marked():
            try:
                if target in " ".join(candidate.cmdline()):
                    return candidate
            except psutil.Error:
                continue
        time.sleep(0.01)
    raise AssertionError(f"no child {target!r}")


STAGES = {
    "build": ("building with", "trt_action.engine.worker"),
    "compare": ("• Compare", "trt_action.measure.worker"),
    "measure": ("latency of head", "trt_action.measure.worker"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("stage", STAGES)
def test_stopped(door: Door, stage: str, number: signal.Signals) -> None:
    line, target = STAGES[stage]
    command = (*COMMAND, "--max-seconds", "1s") if stage == "measure" else COMMAND
    process = door.start(*command)
    reach(process, line)
    child(door, process, target)
    process.send_signal(number)
    result = door.finish(process, timeout=15)
    assert result.code == 130
    assert "The run was stopped" in result.words
    assert files(door.cwd / "out") == REPORT
    record = Evidence.model_validate(evidence(door.cwd / "out"))
    assert record.error
    assert record.error.type == "InterruptedRunError"
    assert record.error.stage.startswith(stage)
    assert (record.head is not None) == (stage != "build")
    assert "topped" in result.out


def test_stopped_where_a_failure_is_passed_over(door: Door) -> None:
    """While the files beside the base are looked for, a failure means that there are none; a stop is no failure."""
    model = onnx.load(door.cwd / "model.onnx")
    model.doc_string = "location"  # what a file is searched for before it is parsed
    onnx.save(model, door.cwd / "model.onnx")
    git = ["git", "-C", str(door.cwd), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q", "-b", "main"], ["add", "model.onnx"], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], check=True)
    process = door.start(*COMMAND, "--base", "main")
    child(door, process, "examine:serve_locations")
    process.send_signal(signal.SIGINT)
    assert door.finish(process, timeout=30).code == 130


def test_an_impatient_second_signal(door: Door) -> None:
    """GitHub's runner sends SIGINT and then SIGTERM; a person presses Ctrl-C until something happens."""
    process = door.start(*COMMAND)
    reach(process, "• Compare")
    child(door, process, STAGES["compare"][1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    assert door.finish(process, timeout=15).code == 130
    assert files(door.cwd / "out") == REPORT


def test_stopped_in_the_first_of_two_models(door: Door) -> None:
    config = "base: none\nmodels: [{model: model.onnx}, {model: base.onnx}]\nmeasure-seconds: 30s\n"
    (door.cwd / ".trt-action.yml").write_text(config)
    process = door.start("bench", "--output", "out")
    reach(process, "latency of head")
    process.send_signal(signal.SIGINT)
    assert door.finish(process, timeout=15).code == 130
    assert files(door.cwd / "out") == {"model/evidence.json"} | (REPORT - {"evidence.json"})


def test_children_die_with_a_parent_that_is_killed(door: Door) -> None:
    process = door.start(*COMMAND)
    reach(process, "• Compare")
    worker = child(door, process, STAGES["compare"][1])
    process.kill()
    process.communicate()
    worker.wait(10)
    psutil.wait_procs(list(door.marked()), timeout=10)
    assert door.children() == []


@pytest.mark.parametrize(
    ("line", "target", "code", "words"),
    [
        ("• Model", "trt_action.model.examine", 9, "was killed (SIGKILL)"),
        ("reading the model", "trt_action.precision.worker", 9, "was killed (SIGKILL)"),
        ("building with", "trt_action.engine.worker", 9, "was killed by the system (SIGKILL)"),
        ("latency of head", "trt_action.measure.worker", 9, "was killed (SIGKILL)"),
    ],
)
def test_a_child_is_killed(door: Door, line: str, target: str, code: int, words: str) -> None:
    process = door.start("bench", "--cache", "false", "--measure-seconds", "30s", "--output", "out")
    reach(process, line)
    child(door, process, target).kill()
    result = door.finish(process, timeout=30)
    assert result.code == code
    assert words in result.words
    assert "\n  Next: " in result.err
    assert files(door.cwd / "out") == REPORT


def test_a_worker_of_the_comparison_is_killed(door: Door) -> None:
    """No failure of the run: the verdict says that there is none, and why."""
    process = door.start("compare", "model.onnx", "base.onnx", "--max-seconds", "60s", "--output", "out")
    reach(process, "• Compare")
    child(door, process, "trt_action.measure.worker").kill()
    result = door.finish(process, timeout=30)
    comparison = evidence(door.cwd / "out")["comparison"]
    assert result.code == 0  # on-inconclusive: pass
    assert comparison["verdict"] == "inconclusive"
    assert "SIGKILL" in comparison["stopped"]


def test_the_mark_of_a_door_reaches_its_children(door: Door) -> None:
    """Else `children` would see nothing, and every test here would pass for nothing."""
    process = door.start(*COMMAND)
    reach(process, "• Compare")
    worker = child(door, process, STAGES["compare"][1])
    assert worker.pid != process.pid
    assert worker.environ()[MARK] == str(door.root)
    assert os.getpgid(worker.pid) != os.getpgid(process.pid)
    process.send_signal(signal.SIGTERM)
    door.finish(process, timeout=15)
