"""docs/kubernetes/rbac.yaml: valid for Kubernetes, and no right in it that the tests of this folder do not need."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deploy.conftest import ROOT, TOKEN, Put, facts, order
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Identity, Kubernetes
from trt_action.deploy import deploying
from trt_action.deploy.checks import Checks, Health
from trt_action.deploy.cluster import Cluster
from trt_action.errors import DeployError

DOCUMENTS = list(yaml.safe_load_all((ROOT / "docs/kubernetes/rbac.yaml").read_text()))
RIGHTS = [
    (number, verb)
    for document in DOCUMENTS
    if document["kind"] == "Role"
    for number, rule in enumerate(document["rules"])
    for verb in rule["verbs"]
]


def test_it_is_valid() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in DOCUMENTS:
        validate.validate(document, "1.32", strict=True)


@pytest.mark.parametrize(("number", "verb"), RIGHTS, ids=[f"{n}-{v}" for n, v in RIGHTS])
def test_every_right_is_used(
    number: int, verb: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    """Without it something is refused."""
    (role,) = (one for one in DOCUMENTS if one["kind"] == "Role")
    rules: list[dict[str, Any]] = [
        {**rule, "verbs": [one for one in rule["verbs"] if (place, one) != (number, verb)]}
        for place, rule in enumerate(role["rules"])
    ]
    k8s.tokens[TOKEN] = Identity("less", tuple(rules))
    refused: list[str] = []
    for kind in ("deployment", "statefulset", "inferenceservice"):
        put(kind)
        for health in ("pods", "service/detector:8000"):
            try:
                deploying.deploy(
                    cluster, facts(), order(log, kind, checks=Checks(Health.parse(health), health_seconds=0.2))
                )
                deploying.rollback(cluster, order(log, kind))
            except DeployError as error:
                refused.append(f"{error.what} {error.why}")
        k8s.images[facts().image] = Image("crash", log="crashed\n")
        try:
            deploying.deploy(cluster, facts(), order(log, kind))
        except DeployError as error:
            if "HTTP 403" in f"{error.what}{error.why}" or not {"Events:", "crashed"} <= set(_parts(error.why)):
                refused.append(f"{error.what} {error.why}")
        k8s.images[facts().image] = Image()
        for one in ("deployments", "statefulsets", "inferenceservices"):
            k8s.store.delete(one, "models", "detector")
        for pod in k8s.store.all("pods"):
            k8s.store.delete("pods", "models", pod["metadata"]["name"])
    if verb == "watch":  # only the bell: without it the rollout is followed by the clock
        assert refused == []
    else:
        assert refused


def _parts(text: str) -> list[str]:
    return [word for word in ("Events:", "crashed") if word in text]
