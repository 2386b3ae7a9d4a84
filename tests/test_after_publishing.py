"""What the action's step does after its verdict, from the inputs as the container gets them: published, recorded in MLflow, the
trend in the summary. Only the container itself is left out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.doubles import mlflow, registry
from tests.doubles.mlflow import Proxy
from tests.history.samples import commit
from tests.publish import images
from tests.publish.test_publishing import runtime_base
from tests.recording.conftest import Api
from tests.test_action import PUSH, SHA, RunAction, action  # noqa: F401 - a fixture
from trt_action import report
from trt_action.publish.registry import Registry

SECRET = "canary-of-mlflow-5b1d"  # noqa: S105 - the double's own
MEASURE = {
    "model": "model.onnx",
    "base": "none",
    "name": "digits",
    "batch-size": "1",  # as the two earlier commits have
    "cache": "false",
    "max-seconds": "2s",
    "measure-seconds": "0.1s",
    "min-throughput": "1/s",
    "mlflow-experiment": "step",
}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := mlflow.missing():
        pytest.skip(reason)
    with mlflow.serve(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def server(uri: str) -> Iterator[Proxy]:
    with mlflow.proxy(uri) as double:
        double.login = f"Bearer {SECRET}"
        yield double


@pytest.fixture
def images_so_far(tmp_path: Path) -> Iterator[Registry]:
    """A registry with a runtime base, and what two earlier commits of `main` have published."""
    if reason := registry.missing():
        pytest.skip(reason)
    (tmp_path / "registry").mkdir()
    with registry.serve(tmp_path / "registry") as running, requests.Session() as session:
        found = Registry(session, running.host)
        runtime_base(found, "acme/digits", tmp_path / "base")
        for number in range(2):
            one = images.push(found, "acme/digits", f"sha-{number}", commit=commit(number), precision="fp32")
            images.attached(found, one, None)
        yield found


@pytest.fixture
def model(tmp_path: Path, action: RunAction, digits: Path) -> None:  # noqa: F811
    shutil.copy(digits / "model.onnx", tmp_path / "workspace")


@pytest.mark.usefixtures("model")
def test_a_run_that_publishes_is_recorded_and_shows_the_trend(
    action: RunAction,  # noqa: F811
    images_so_far: Registry,
    server: Proxy,
    uri: str,
) -> None:
    host = images_so_far.host
    given = MEASURE | {
        "registry": host,
        "image": "acme/digits",
        "base-image": f"{host}/acme/digits:base",
        "publish-mode": "registry",
        "history": "true",
        "mlflow-tracking-uri": server.uri,
        "mlflow-model": "digits",
        "mlflow-alias": "champion",
        "mlflow-required": "true",
    }
    step = action("push", PUSH, given, GITHUB_REF="refs/heads/main", MLFLOW_TRACKING_TOKEN=SECRET)
    assert step.exit_code == 0, step.raw
    assert SECRET not in step.log + step.summary + str(step.outputs)
    assert SECRET in step.masks
    (run,) = Api(uri).runs("step")
    tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
    published = f"{step.outputs['image']}@{step.outputs['digest']}"
    assert (tags["trt-action.commit"], tags["trt-action.image"]) == (SHA, published)
    (version,) = Api(uri).versions("digits")
    assert (version["source"], version["run_id"]) == (f"docker://{published}", run["info"]["run_id"])
    assert "**digits · fp32 · CPU · onnxruntime · 1×1×8×8**, 3 runs" in step.summary
    assert "xychart-beta" in step.summary.partition("### History")[2]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("required", "code", "level"), [("false", 0, "warning"), ("true", 20, "error")])
def test_a_login_that_is_refused_leaves_the_verdict(
    action: RunAction,  # noqa: F811
    server: Proxy,
    tmp_path: Path,
    required: str,
    code: int,
    level: str,
) -> None:
    """The server's answer repeats what was sent; the log does not."""
    server.login = "Basic another"
    given = MEASURE | {"mlflow-tracking-uri": server.uri, "mlflow-required": required}
    wrong = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": SECRET}
    step = action("workflow_dispatch", {}, given, **wrong)
    assert step.exit_code == code, step.raw
    (told,) = [one for one in step.annotations if one.properties.get("title") == "Not recorded in MLflow"]
    assert told.level == level
    assert "HTTP 401" in told.message
    assert "MLFLOW_TRACKING_PASSWORD" in told.message
    assert SECRET not in step.log
    assert "YW5uOmNhbmFyeS" not in step.log  # "ann:canary…" in Base64
    assert step.outputs["outcome"] == "passed"
    assert report.read_evidence(tmp_path / "workspace" / step.outputs["evidence"]).outcome == "passed"
