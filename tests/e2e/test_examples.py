"""Every example workflow, its steps run one after the other with the action's real image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.deploy.conftest import OLD, RULES, manifest
from tests.deploy.conftest import TOKEN as KUBE
from tests.doubles import openai_server, prometheus
from tests.doubles import registry as registries
from tests.doubles.github.server import Identity
from tests.doubles.kubernetes import server as kubernetes
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Kubernetes
from tests.doubles.openai_server import OpenAI
from tests.doubles.prometheus import Prometheus
from tests.doubles.runner import Step
from tests.doubles.workflow import Leg, Workflow
from tests.e2e.conftest import CONFIG, REPOSITORY, ROOT, TOKEN, Checkout, MakeCheckout
from tests.publish.test_publishing import runtime_base
from trt_action.publish.registry import Registry

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]
EXAMPLES = ROOT / "examples/workflows"
TWO_MODELS = CONFIG.replace("name: digits\nmodel: models/digits.onnx\n", "") + (
    "models:\n  - {name: first, model: models/digits.onnx}\n  - {name: second, model: models/digits.onnx}\n"
)
Run = Callable[..., dict[str, list[Leg]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run one example: (name, checkout, changes of the event) → its jobs."""

    def start(
        name: str, checkout: Checkout, change: Any = dict, secrets: dict[str, str] | None = None, **event: Any
    ) -> dict[str, list[Leg]]:
        event = {"event": "pull_request", "payload": checkout.payload(), **event}

        def action(inputs: dict[str, str]) -> Step:
            return checkout.step(with_=inputs, **event)

        github = {"token": TOKEN, "event": event["payload"], "ref": event.get("ref", "refs/pull/7/merge")}
        workspace, artifacts = checkout.runner.workspace, tmp_path / "artifacts"
        return Workflow(EXAMPLES / name, workspace, artifacts, action, github, change, secrets).run()

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
    run_here = {
        "pull-request.yml",
        "fork-measure.yml",
        "fork-report.yml",
        "gpu-matrix.yml",
        "monorepo.yml",
        "deploy.yml",
        "llm.yml",
    }
    publishing = {"publish.yml", "release.yml", "gpu-publish.yml"}  # test_publish_examples.py
    by_hand = {"rollback.yml"}  # deploy/test_image.py
    assert {path.name for path in EXAMPLES.glob("*.yml")} == run_here | publishing | by_hand


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


@pytest.fixture
def production(tmp_path: Path) -> Iterator[tuple[Kubernetes, Prometheus]]:
    """A cluster that runs an older image, with the rights of docs/kubernetes/rbac.yaml, and its Prometheus."""
    for name in ("cluster", "registry"):
        (tmp_path / name).mkdir()
    with kubernetes.serve(tmp_path / "cluster") as cluster, prometheus.serve() as numbers:
        cluster.tokens[KUBE] = kubernetes.Identity("trt-action", RULES)
        numbers.token = prometheus.TOKEN
        numbers.answer = lambda query: ["0.004"] if query.startswith("histogram") else ["0"]
        cluster.controllers.unknown = Image(digest="sha256:" + "5" * 64)
        cluster.create(manifest(image=OLD))
        cluster.wait(lambda: cluster.settled("deployments", "detector", OLD))
        yield cluster, numbers
    assert cluster.violations == []


@pytest.mark.parametrize("p99", ["0.004", "0.400"], ids=["holds", "too-slow"])
def test_deploy(
    p99: str, run: Run, checkout: Checkout, tmp_path: Path, production: tuple[Kubernetes, Prometheus]
) -> None:
    """From a push to pods: measured, published into a real registry, rolled out, watched; and put back if it is slow."""
    cluster, numbers = production
    numbers.answer = lambda query: [p99] if query.startswith("histogram") else ["0"]
    if reason := registries.missing():
        pytest.skip(reason)
    with registries.serve(tmp_path / "registry") as registry, requests.Session() as session:
        base = runtime_base(Registry(session, registry.host), "acme/runtime", tmp_path / "base")
        here = {
            "registry": registry.host,
            "base-image": str(base),
            "deploy-prometheus-url": numbers.url,
            "deploy-watch": "2s",
        }
        payload = {"ref": "refs/heads/main", "before": "", "repository": checkout.payload()["repository"]}
        secrets = {
            "KUBECONFIG": cluster.kubeconfig(tmp_path / "kubeconfig", token=KUBE).read_text(),
            "PROMETHEUS_TOKEN": prometheus.TOKEN,
        }
        push = {"event": "push", "payload": payload, "ref": "refs/heads/main"}
        ((leg,),) = run("deploy.yml", checkout, lambda inputs: inputs | here, secrets, **push).values()
    (step,) = leg.actions
    holds = p99 == "0.004"
    assert leg.result == ("success" if holds else "failure"), step.raw
    assert KUBE not in step.raw
    image = f"{registry.host}/acme/detector@{step.outputs['digest']}"
    cluster.wait(lambda: cluster.settled("deployments", "detector", image if holds else OLD))
    notes = cluster.get("deployments", "detector")["metadata"]["annotations"]
    if holds:
        assert step.outputs["deployed"] == "deployed"
        assert notes["trt-action.github.io/commit"] == checkout.merge
        assert notes["trt-action.github.io/outcome"] == step.outputs["outcome"] != "failed"
        assert f"### Deployed `{image}`" in step.summary
    else:
        assert step.exit_code == 17
        assert any("p99 400 ms, and at most 50 ms is allowed" in one.message for one in step.annotations)
        assert "trt-action.github.io/commit" not in notes


def test_a_served_language_model(run: Run, checkout: Checkout) -> None:
    """The endpoints of the example are replaced by a server of this host; prompts and questions by short ones."""
    workspace = checkout.runner.workspace
    (workspace / "prompts.jsonl").write_text('{"prompt": "Hello", "max_tokens": 8}\n' * 4)
    (workspace / "quality.jsonl").write_text('{"prompt": "Hello", "kind": "regex", "expected": "."}\n')
    (workspace / ".trt-action.yml").unlink()
    with openai_server.serve(OpenAI()) as server:
        here = {"endpoint": server.url, "base-endpoint": server.url, "max-seconds": "10s", "measure-seconds": "1s"}
        ((leg,),) = run("llm.yml", checkout, lambda inputs: inputs | here).values()
    (step,) = leg.actions
    assert step.exit_code in (0, 1), step.raw  # the verdict on a busy host is not what is shown here
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    assert "ttft" in body.lower()
