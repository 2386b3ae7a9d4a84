"""Every example workflow, its steps run one after the other with the action's real image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.github.server import Identity
from tests.doubles.runner import Step
from tests.doubles.workflow import Leg, Workflow
from tests.e2e.conftest import CONFIG, REPOSITORY, ROOT, TOKEN, Checkout, MakeCheckout

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]
EXAMPLES = ROOT / "examples/workflows"
TWO_MODELS = CONFIG.replace("name: digits\nmodel: models/digits.onnx\n", "") + (
    "models:\n  - {name: first, model: models/digits.onnx}\n  - {name: second, model: models/digits.onnx}\n"
)
Run = Callable[..., dict[str, list[Leg]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run one example: (name, checkout, changes of the event) → its jobs."""

    def start(name: str, checkout: Checkout, change: Any = dict, **event: Any) -> dict[str, list[Leg]]:
        event = {"event": "pull_request", "payload": checkout.payload(), **event}

        def action(inputs: dict[str, str]) -> Step:
            return checkout.step(with_=inputs, **event)

        github = {"token": TOKEN, "event": event["payload"], "ref": event.get("ref", "refs/pull/7/merge")}
        workflow = Workflow(EXAMPLES / name, checkout.runner.workspace, tmp_path / "artifacts", action, github, change)
        return workflow.run()

    return start


def finished(checkout: Checkout) -> dict[str, Any]:
    measured = {
        "id": 4711,
        "run_attempt": 1,
        "head_sha": checkout.head,
        "event": "pull_request",
        "conclusion": "success",
    }
    return {
        "event": "workflow_run",
        "payload": {"action": "completed", "workflow_run": measured},
        "ref": "refs/heads/main",
    }


def test_every_example_is_here() -> None:
    run_here = {"pull-request.yml", "fork-measure.yml", "fork-report.yml", "gpu-matrix.yml", "monorepo.yml"}
    run_elsewhere = {"publish.yml", "release.yml"}
    assert {path.name for path in EXAMPLES.glob("*.yml")} == run_here | run_elsewhere


def test_pull_request(run: Run, checkout: Checkout) -> None:
    ((leg,),) = run("pull-request.yml", checkout, lambda inputs: inputs | {"max-latency-regression": "50%"}).values()
    assert leg.result == "success", leg.actions[0].raw
    assert len(checkout.github.bodies(REPOSITORY, 7)) == 1


def test_the_pair_for_forks(run: Run, checkout: Checkout) -> None:
    """A stranger's job has a token that may only read; the comment comes from the trusted job."""
    checkout.github.tokens[TOKEN] = Identity(write=False)
    stranger = checkout.payload(head_repository="stranger/models")
    ((leg,),) = run("fork-measure.yml", checkout, payload=stranger).values()
    assert leg.result == "success", leg.actions[0].raw
    assert checkout.github.bodies(REPOSITORY, 7) == []
    checkout.github.tokens[TOKEN] = Identity()
    ((leg,),) = run("fork-report.yml", checkout, **finished(checkout)).values()
    assert leg.result == "success", leg.actions[0].raw
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    assert "digits" in body


def test_a_cancelled_measurement_is_not_reported(run: Run, checkout: Checkout) -> None:
    event = finished(checkout)
    event["payload"]["workflow_run"]["conclusion"] = "cancelled"
    assert run("fork-report.yml", checkout, **event)["comment"][0].result == "skipped"


def test_a_matrix_becomes_one_comment(run: Run, checkout: Checkout) -> None:
    """The GPUs cannot be had here: without `gpu` the legs measure on the CPU."""
    jobs = run("gpu-matrix.yml", checkout, lambda inputs: {k: v for k, v in inputs.items() if k != "gpu"})
    assert [leg.result for leg in jobs["measure"]] == ["success"] * 3, jobs["measure"][0].actions[0].raw
    assert jobs["report"][0].result == "success", jobs["report"][0].actions[0].raw
    assert len(checkout.github.bodies(REPOSITORY, 7)) == 1
    assert len(json.loads(jobs["report"][0].actions[0].outputs["json"])["models"]) == 3


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this host has a GPU")
def test_a_matrix_without_its_gpus_is_red_and_says_why(run: Run, checkout: Checkout) -> None:
    jobs = run("gpu-matrix.yml", checkout)
    assert [leg.actions[0].exit_code for leg in jobs["measure"]] == [10] * 3
    assert jobs["report"][0].result == "failure"
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    assert "NVIDIA" in body


def test_several_models(run: Run, make_checkout: MakeCheckout) -> None:
    checkout = make_checkout(TWO_MODELS)
    ((leg,),) = run("monorepo.yml", checkout).values()
    assert leg.result == "success", leg.actions[0].raw
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    assert "first" in body
    assert "second" in body
    printed = next(step for step in leg.steps if isinstance(step, str))
    assert [line.split("\t")[0] for line in printed.splitlines()] == ["first", "second"]
