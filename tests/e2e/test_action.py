"""The action's image, run exactly as the runner runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.doubles.github.server import Fault, Identity
from tests.doubles.runner import Step
from tests.e2e.conftest import CONFIG, OWNER, REPOSITORY, TOKEN, Checkout, MakeCheckout, docker
from trt_action import report
from trt_action.container import LABEL
from trt_action.github.comment import BUDGET, without_stamp
from trt_action.results import OUTPUTS

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]


@pytest.fixture(scope="module")
def measured(make_checkout: MakeCheckout) -> tuple[Checkout, Step, list[str]]:
    """One whole run on a pull request: (checkout, step, comments right after it)."""
    checkout = make_checkout()
    step = checkout.step()
    return checkout, step, checkout.github.bodies(REPOSITORY, 7)


def test_a_pull_request_gets_its_verdict(measured: tuple[Checkout, Step, list[str]]) -> None:
    checkout, step, bodies = measured
    assert step.exit_code == 0, step.raw
    evidence = report.read_evidence(checkout.report / "evidence.json")
    assert evidence.error is None
    assert evidence.comparison
    assert evidence.source.commit == checkout.head
    assert evidence.source.measured_commit == checkout.merge
    assert evidence.base
    assert evidence.base.commit == checkout.base
    assert len(bodies) == 1, step.log
    assert f"head={checkout.head}" in bodies[0].splitlines()[1]
    assert without_stamp(bodies[0]) == report.comment([evidence], budget=BUDGET)


def test_its_outputs_are_what_action_yml_says(measured: tuple[Checkout, Step, list[str]]) -> None:
    checkout, step, _ = measured
    assert set(step.outputs) == set(OUTPUTS)
    assert step.outputs["outcome"] in ("passed", "inconclusive")
    assert float(step.outputs["p50-ms"]) > 0
    assert float(step.outputs["accuracy"]) > 0.9
    assert (checkout.runner.workspace / step.outputs["evidence"]).is_file()
    assert (checkout.runner.workspace / step.outputs["report"]).is_file()
    assert step.outputs["comment-url"].startswith("https://")
    assert json.loads(step.outputs["json"])["models"][0]["name"] == "digits"


def test_its_summary_log_and_first_line(measured: tuple[Checkout, Step, list[str]]) -> None:
    _, step, _ = measured
    assert "digits" in step.summary
    assert step.log.startswith("trt-action ")
    assert step.first_line_seconds is not None
    assert step.first_line_seconds <= 2.0
    assert not [one for one in step.annotations if one.level == "error"]


def test_everything_in_the_workspace_belongs_to_its_owner(measured: tuple[Checkout, Step, list[str]]) -> None:
    checkout, _, _ = measured
    strangers = [
        path
        for path in [*checkout.runner.workspace.rglob("*"), *checkout.runner.home.rglob("*")]
        if path.lstat().st_uid != OWNER
    ]
    assert strangers == []
    status = [
        "git",
        "-c",
        f"safe.directory={checkout.runner.workspace}",
        "status",
        "--porcelain",
        "--",
        "models",
        "data",
    ]
    assert subprocess.run(status, cwd=checkout.runner.workspace, capture_output=True, check=True).stdout == b""


def test_no_token_in_any_log_or_file(measured: tuple[Checkout, Step, list[str]]) -> None:
    checkout, step, bodies = measured
    assert TOKEN in step.masks
    assert TOKEN not in step.log
    assert TOKEN not in step.raw.replace(f"::add-mask::{TOKEN}", "")
    assert TOKEN not in "".join(bodies) + step.summary + json.dumps(step.outputs)
    for path in checkout.runner.work.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_the_command_line_in_the_same_container_says_the_same(
    measured: tuple[Checkout, Step, list[str]], action_image: str
) -> None:
    """The comment is a function of the evidence: rendered by the command line, it is the one that was posted."""
    checkout, _, bodies = measured
    mount = f"{checkout.runner.workspace}:/github/workspace:ro"
    command = ["run", "--rm", "-v", mount, "-w", "/github/workspace", "--entrypoint", "trt-action", action_image]
    rendered = docker(*command, "render", "trt-action-report/evidence.json")
    assert rendered.strip() == without_stamp(bodies[0]).strip()


def test_a_trusted_job_reports_the_evidence_of_another(measured: tuple[Checkout, Step, list[str]]) -> None:
    """The second half of the fork-safe pair."""
    checkout, _, bodies = measured
    checkout.github.comments.clear()
    payload = {"action": "completed", "workflow_run": {"id": 4711, "run_attempt": 1, "head_sha": checkout.head}}
    step = checkout.step(
        event="workflow_run",
        payload=payload,
        with_={"evidence": "trt-action-report/evidence.json"},
        ref="refs/heads/main",
    )
    assert step.exit_code == 0, step.raw
    assert [without_stamp(one) for one in checkout.github.bodies(REPOSITORY, 7)] == [without_stamp(bodies[0])]


def reporting(checkout: Checkout) -> dict[str, object]:
    """What a step of the trusted half of the pair gets."""
    run = {"id": 4711, "run_attempt": 1, "head_sha": checkout.head}
    return {
        "event": "workflow_run",
        "payload": {"action": "completed", "workflow_run": run},
        "with_": {"evidence": "trt-action-report/evidence.json"},
        "ref": "refs/heads/main",
    }


FAULTS = {
    "limits": [
        Fault("GET", "pulls", status=429, headers={"Retry-After": "1"}),
        Fault(
            "POST",
            "comments",
            status=403,
            message="You have exceeded a secondary rate limit.",
            headers={"Retry-After": "1"},
        ),
    ],
    "server errors": [
        Fault("GET", "comments", status=502),
        Fault("POST", "comments", status=503, headers={"Retry-After": "1"}),
    ],
    "resets": [Fault("GET", "pulls", "reset-before"), Fault("POST", "comments", "reset-after")],
    "slow": [Fault("GET", "comments", "slow", seconds=2), Fault("POST", "comments", "slow", seconds=2)],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_day_of_the_api_costs_no_report(measured: tuple[Checkout, Step, list[str]], name: str) -> None:
    checkout, _, bodies = measured
    github = checkout.github
    github.comments.clear()
    github.faults += FAULTS[name]
    step = checkout.step(**reporting(checkout))
    waiting = [fault for fault in github.faults if fault.times]
    github.faults.clear()
    assert waiting == [], "every fault was met"
    assert step.exit_code == 0, step.raw
    assert [without_stamp(one) for one in github.bodies(REPOSITORY, 7)] == [without_stamp(bodies[0])]
    assert "Traceback" not in step.raw


@pytest.mark.parametrize(
    ("fault", "words", "code"),
    [
        (Fault("POST", "comments", status=404, message="Not Found"), "404", 12),
        (Fault("POST", "comments", status=422, message="Validation Failed"), "422", 12),
        (
            Fault("POST", "comments", status=403, message="Resource not accessible by integration"),
            "HTTP 403, Resource not accessible",
            0,
        ),
    ],
)
def test_a_refusal_is_told_and_the_summary_has_the_results(
    measured: tuple[Checkout, Step, list[str]], fault: Fault, words: str, code: int
) -> None:
    checkout, *_ = measured
    checkout.github.comments.clear()
    checkout.github.faults.append(fault)
    step = checkout.step(**reporting(checkout))
    assert step.exit_code == code, step.raw
    assert words in step.log + "".join(one.message for one in step.annotations)
    assert checkout.github.bodies(REPOSITORY, 7) == []
    assert "digits" in step.summary


def test_twenty_racing_jobs_leave_exactly_one_comment(measured: tuple[Checkout, Step, list[str]]) -> None:
    checkout, _, bodies = measured
    checkout.github.comments.clear()
    running = [checkout.start(**reporting(checkout)) for _ in range(20)]
    steps = [one.result() for one in running]
    assert [step.exit_code for step in steps] == [0] * 20, "".join(step.raw for step in steps if step.exit_code)
    assert [without_stamp(one) for one in checkout.github.bodies(REPOSITORY, 7)] == [without_stamp(bodies[0])]


def test_a_failed_gate_and_a_read_only_token(make_checkout: MakeCheckout) -> None:
    checkout = make_checkout(CONFIG + "max-engine-size: 1kB\n")
    checkout.github.tokens[TOKEN] = Identity(write=False)
    step = checkout.step(payload=checkout.payload(head_repository="stranger/models"))
    assert step.exit_code == 1, step.raw
    assert step.outputs["outcome"] == "failed"
    assert checkout.github.bodies(REPOSITORY, 7) == []
    assert "max-engine-size" in step.summary
    assert "workflow_run" in step.log
    (gate,) = [one for one in step.annotations if one.level == "error"]
    assert gate.properties["file"] == ".trt-action.yml"
    assert CONFIG.count("\n") + 1 == int(gate.properties["line"])


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_cancelled_run_leaves_partial_evidence_and_no_child(checkout: Checkout, signal: str) -> None:
    running = checkout.start(with_={"max-seconds": "120s"})
    running.wait_for("Build head:", timeout=120)
    running.cancel() if signal == "SIGINT" else running.terminate()
    step = running.result(timeout=30)
    assert step.exit_code == 130, step.raw
    evidence = report.read_evidence(checkout.report / "evidence.json")
    assert evidence.error
    assert (evidence.error.type, evidence.error.stage) == ("InterruptedRunError", "build-base")
    assert evidence.head, "what was known is kept"
    assert checkout.github.bodies(REPOSITORY, 7) == []
    assert docker("ps", "--all", "--quiet", "--filter", f"name={running.name}") == ""
    assert (checkout.report / "evidence.json").stat().st_uid == OWNER


def test_bad_settings_are_told_where_they_are(make_checkout: MakeCheckout) -> None:
    checkout = make_checkout(CONFIG.replace("precision: int8", "precision: int9"))
    step = checkout.step()
    assert step.exit_code == 2, step.raw
    (error,) = [one for one in step.annotations if one.level == "error"]
    assert error.properties["file"] == ".trt-action.yml"
    assert error.properties["line"] == "4"
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    assert "int9" in body
    assert "Traceback" not in step.raw


THIEF = """
import contextlib, os, pathlib, socket
def metric(outputs, labels):
    for path in pathlib.Path("/github/file_commands").glob("env_*"):
        with contextlib.suppress(PermissionError):
            path.write_text("LD_PRELOAD=/evil.so")
    try:
        socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
        docker = "open"
    except OSError as error:
        docker = type(error).__name__
    found = [f"{name}={value}" for name, value in os.environ.items()]
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += open(f"/proc/{process}/environ", errors="replace").read().split("\\0")
        except OSError:
            pass
    raise RuntimeError(f"uid {os.getuid()}, docker {docker}, got " + " ".join(one[-60:] for one in found if "ghs_" in one)[:400])
"""


def test_a_users_function_finds_no_token(make_checkout: MakeCheckout) -> None:
    """Neither in its own environment nor in that of the process that started it."""
    checkout = make_checkout(CONFIG + "metric: data/thief.py:metric\n")
    (checkout.runner.workspace / "data/thief.py").write_text(THIEF)
    step = checkout.step()
    assert step.exit_code == 7, step.raw
    assert f"uid {OWNER}, docker PermissionError, got" in step.log, (
        "the workspace's owner, and no group that opens the socket"
    )
    assert TOKEN not in step.raw.replace(f"::add-mask::{TOKEN}", "")
    assert TOKEN not in (checkout.report / "evidence.json").read_text()
    (later,) = checkout.runner.file_commands.glob("env_*")
    assert later.read_text() == "", "no variable for later steps"


def test_a_closed_pull_request_is_nothing_to_do(checkout: Checkout) -> None:
    step = checkout.step(payload=checkout.payload(action="closed"))
    assert (step.exit_code, step.outputs) == (0, {})
    assert "nothing" in step.log
    assert not checkout.report.exists()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this host has a GPU")
def test_a_gpu_on_a_host_without_nvidia_runtime(checkout: Checkout) -> None:
    step = checkout.step(with_={"gpus": "all"})
    assert step.exit_code == 10, step.raw
    (error,) = [one for one in step.annotations if one.level == "error"]
    assert "nvidia-ctk runtime configure --runtime=docker" in error.message
    assert docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}") == ""
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    assert "NVIDIA" in body


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this host has a GPU")
def test_a_gpu_without_a_docker_socket(checkout: Checkout) -> None:
    step = checkout.step(with_={"gpus": "all"}, socket=False)
    assert step.exit_code == 10, step.raw
    assert "no Docker socket" in step.log + "".join(one.message for one in step.annotations)


def test_root_is_who_runs_this() -> None:
    assert os.geteuid() == 0, "ownership can only be shown by root"
