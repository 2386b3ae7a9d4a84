"""One real MLflow server for all tests of this folder; each takes an experiment of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.doubles import mlflow
from tests.doubles.mlflow import Proxy
from trt_action.evidence import Evidence
from trt_action.recording import Recorded, Target, record

Keep = Callable[..., Recorded]


class Api:
    """Reads back what a server holds, without the code that is tested."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def get(self, path: str, **params: str) -> dict[str, Any]:
        answer = requests.get(f"{self.uri}/api/2.0/mlflow{path}", params=params, timeout=60)
        return dict(answer.json(), status=answer.status_code)

    def make(self, experiment: str) -> None:
        body = {"name": experiment}
        requests.post(f"{self.uri}/api/2.0/mlflow/experiments/create", json=body, timeout=60).raise_for_status()

    def run(self, run_id: str) -> dict[str, Any]:
        return dict(self.get("/runs/get", run_id=run_id)["run"])

    def values(self, run_id: str, kind: str) -> dict[str, Any]:
        return {one["key"]: one["value"] for one in self.run(run_id)["data"].get(kind, [])}

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        found = self.get("/experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"]
        body = {"experiment_ids": [found]}
        answer = requests.post(f"{self.uri}/api/2.0/mlflow/runs/search", json=body, timeout=60)
        return list(answer.json().get("runs", []))

    def versions(self, name: str) -> list[dict[str, Any]]:
        return list(self.get("/model-versions/search", filter=f"name='{name}'").get("model_versions", []))

    def file(self, run_id: str, path: str) -> bytes:
        root = self.run(run_id)["info"]["artifact_uri"].removeprefix("mlflow-artifacts:")
        answer = requests.get(f"{self.uri}/api/2.0/mlflow-artifacts/artifacts{root}/{path}", timeout=60)
        answer.raise_for_status()
        return answer.content


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := mlflow.missing():
        pytest.skip(reason)
    with mlflow.serve(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def api(uri: str) -> Api:
    return Api(uri)


@pytest.fixture
def proxy(uri: str) -> Iterator[Proxy]:
    with mlflow.proxy(uri) as double:
        yield double


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def keep(uri: str, experiment: str) -> Iterator[Keep]:
    """Records, with a clock that does not wait."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with requests.Session() as session:
        session.trust_env = False

        def kept(evidence: Evidence, *, to: str = uri, target: dict[str, Any] | None = None, **how: Any) -> Recorded:
            asked = Target(to, experiment, **(target or {}))
            time = {"sleep": sleep, "clock": lambda: now[0], "jitter": lambda: 0.0}
            return record(evidence, asked, session, **{**time, **how})

        yield kept
