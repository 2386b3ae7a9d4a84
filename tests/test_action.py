"""The action's door without Docker: what it says and how it ends when there is little or nothing to measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.runner import Step, read_file_command
from tests.report import samples
from trt_action import action as action_module
from trt_action import container, gpu, report, settings
from trt_action.errors import BackendUnavailableError
from trt_action.evidence import Source
from trt_action.github.event import Activity
from trt_action.github.inputs import ActionInputs
from trt_action.job import Job

ENTRYPOINT = Path(__file__).parents[1] / "entrypoint.py"
SHA = "c" * 40
TOKEN = "ghs_canary0123456789abcdefABCDEF0123456789"  # noqa: S105 - nobody's

RunAction = Callable[..., Step]


@pytest.fixture
def action(tmp_path: Path) -> RunAction:
    """Runs entrypoint.py in an empty workspace with a runner's environment; `inputs` by their names."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def run(event: str, payload: Any, inputs: Mapping[str, str] | None = None, **env: str) -> Step:
        files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("")
        (tmp_path / "event.json").write_text(payload if isinstance(payload, str) else json.dumps(payload))
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_REPOSITORY": "acme/models",
            "GITHUB_SHA": SHA,
            "GITHUB_WORKSPACE": str(workspace),
            **{name: str(path) for name, path in files.items()},
            **{f"INPUT_{name.upper()}": value for name, value in (inputs or {}).items()},
            **env,
        }
        done = subprocess.run(
            [sys.executable, ENTRYPOINT],
            cwd=workspace,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        outputs = read_file_command(files["GITHUB_OUTPUT"].read_text())
        return Step(done.returncode, done.stdout, None, outputs, files["GITHUB_STEP_SUMMARY"].read_text())

    return run


PUSH = {"ref": "refs/heads/main", "before": "0" * 40, "repository": {"default_branch": "main"}}


@pytest.mark.parametrize(
    ("event", "payload", "inputs", "code", "said"),
    [
        ("push", {"ref": "refs/heads/x", "deleted": True}, {}, 0, "was deleted"),
        ("workflow_dispatch", {}, {"activity": "nothing"}, 0, "asks for `nothing`"),
        (
            "release",
            {"action": "published", "release": {"tag_name": "v1.2.3"}},
            {},
            0,
            "neither `registry` nor `image`",
        ),
        (
            "release",
            {"action": "published", "release": {"tag_name": "v1.2.3"}},
            {"image": "acme/net", "push": "false"},
            0,
            "`push: false`",
        ),
        ("issues", {}, {}, 2, "`issues` is not one that this action serves"),
        ("push", "{not json", {}, 2, "cannot be read"),
        ("push", PUSH, {"modle": "x.onnx"}, 2, "`model`"),
        ("push", PUSH, {"report-only": "yes"}, 2, "exactly `true` or `false`"),
        ("workflow_run", {"workflow_run": {"head_sha": SHA}}, {}, 2, "needs the input `evidence`"),
        (
            "workflow_run",
            {"workflow_run": {"head_sha": SHA}},
            {"on-inconclusive": "fial"},
            2,
            "`on-inconclusive: fial`",
        ),
    ],
)
def test_ends_before_anything_is_measured(
    action: RunAction, event: str, payload: Any, inputs: dict[str, str], code: int, said: str
) -> None:
    step = action(event, payload, inputs)
    assert step.exit_code == code, step.raw
    assert said in step.log + "".join(one.message for one in step.annotations)
    assert len(step.annotations) == (1 if code else 0)
    assert "Traceback" not in step.raw


def test_a_release_without_a_version_is_seen(action: RunAction) -> None:
    """A tag that moves (`v1`) is no release; a person who meant one reads why nothing was promoted."""
    payload = {"action": "published", "release": {"tag_name": "v1"}}
    step = action("release", payload, {"image": "acme/net"})
    assert step.exit_code == 0, step.raw
    (warning,) = step.annotations
    assert (warning.level, "`v1` is no version" in warning.message) == ("warning", True)


def test_an_error_leaves_evidence_outputs_and_summary(action: RunAction, tmp_path: Path) -> None:
    step = action("push", PUSH, {"model": "missing.onnx", "cache": "false", "github-token": TOKEN})
    assert step.exit_code == 2, step.raw
    evidence = report.read_evidence(tmp_path / "workspace" / step.outputs["evidence"])
    assert evidence.error
    assert "missing.onnx" in evidence.error.what
    assert (evidence.source.commit, evidence.source.base_commit) == (SHA, None)
    assert step.outputs["outcome"] == "failed"
    assert "missing.onnx" in step.summary
    assert "Nothing is published" in step.log
    assert TOKEN in step.masks
    assert TOKEN not in step.log


def test_a_report_shows_what_its_legs_broke(action: RunAction, tmp_path: Path) -> None:
    broken = samples.regressed().model_copy(update={"source": Source(commit=SHA)})
    report.write_evidence(broken, tmp_path / "workspace/evidence/a100")
    step = action("workflow_run", {"workflow_run": {"head_sha": SHA}}, {"evidence": "evidence/**/evidence.json"})
    assert step.exit_code == 1, step.raw
    assert "max-latency-regression failed" in "".join(one.properties["title"] for one in step.annotations)


def test_report_only_keeps_no_error_green(action: RunAction) -> None:
    assert action("push", PUSH, {"model": "missing.onnx", "report-only": "true"}).exit_code == 2


def test_foreign_text_is_no_command(action: RunAction) -> None:
    step = action("push", PUSH, {"model": "missing.onnx"}, GITHUB_REF="x\n::error::from a branch name")
    assert "from a branch name" not in "".join(one.message for one in step.annotations)
    assert step.log.startswith("trt-action ")


@pytest.mark.parametrize(
    ("visible", "socket", "inside", "expected"),
    [
        (True, True, False, True),  # `nvidia` is the default runtime: the locks of the host are in the siblings' volume
        (False, True, False, True),
        (True, True, True, False),
        (True, False, False, False),
        (False, False, False, None),
        (False, True, True, None),
    ],
)
def test_who_wants_a_gpu_runs_in_a_sibling(
    visible: bool, socket: bool, inside: bool, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [gpu.Gpu("GPU-1", "NVIDIA L4", "8.9")] if visible else []
    monkeypatch.setattr(gpu, "visible", lambda: seen)
    monkeypatch.setattr(container, "socket_is_there", lambda: socket)
    monkeypatch.setattr(container, "is_sibling", lambda env: inside)
    job = Job({}, ActionInputs(gpus="all"), Activity("measure", "test"), 0.0)
    if expected is None:
        with pytest.raises(BackendUnavailableError):
            action_module._needs_sibling(job, [])
    else:
        assert action_module._needs_sibling(job, []) is expected


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [
        ({}, "auto", False),
        ({"backend": "tensorrt-rtx"}, "auto", True),
        ({"device": "cuda"}, "auto", True),
        ({"device": "cuda:1"}, "none", False),
        ({"device": "cpu"}, "all", True),
    ],
)
def test_who_wants_a_gpu(asked: dict[str, str], gpus: str, expected: bool, tmp_path: Path) -> None:
    chosen = settings.load({"model": "m.onnx", **asked}, {}, tmp_path)
    job = Job({}, ActionInputs(gpus=gpus), Activity("measure", "test"), 0.0)
    assert action_module._wants_gpu(job, chosen) is expected
