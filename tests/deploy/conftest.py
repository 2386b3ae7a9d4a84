"""A cluster on loopback, workloads in it, and clients with exactly the rights of docs/kubernetes/rbac.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from tests.doubles.kubernetes import server
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Identity, Kubernetes
from trt_action import http
from trt_action.deploy.access import Access, Login
from trt_action.deploy.cluster import Cluster
from trt_action.deploy.deploying import Order
from trt_action.deploy.facts import Facts
from trt_action.deploy.rollout import Limits
from trt_action.deploy.workload import KINDS, Workload

ROOT = Path(__file__).parents[2]
TOKEN = "canary-kube-4b1d9e7c2a"  # noqa: S105 - the double's own
NAME = "registry.example/acme/detector"
OLD, NEW, OTHER = (f"{NAME}@sha256:{letter * 64}" for letter in "abc")
RULES = tuple(
    rule
    for one in yaml.safe_load_all((ROOT / "docs/kubernetes/rbac.yaml").read_text())
    if one["kind"] == "Role"
    for rule in one["rules"]
)
RESOURCES = {"deployment": "deployments", "statefulset": "statefulsets", "inferenceservice": "inferenceservices"}


def manifest(kind: str = "deployment", image: str = OLD, replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """A workload `detector` with a sidecar."""
    labels = {"app": "detector"}
    containers = [
        {"name": "detector", "image": image, "env": [{"name": "A", "value": "1"}]},
        {"name": "sidecar", "image": f"{NAME}/sidecar:1"},
    ]
    metadata = {"name": "detector", "namespace": "models", "annotations": {"team": "vision"}}
    if kind == "inferenceservice":
        inner = {"predictor": {"minReplicas": replicas, "containers": containers}}
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata,
            "spec": inner,
        }
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    if kind == "statefulset":
        spec = {"serviceName": "detector", **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": KINDS[kind].name,
        "metadata": metadata,
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **spec},
    }


@pytest.fixture
def k8s(tmp_path: Path) -> Iterator[Kubernetes]:
    """A cluster that knows the images OLD, NEW and OTHER, all of them fine."""
    (tmp_path / "cluster").mkdir()
    with server.serve(tmp_path / "cluster") as double:
        double.tokens[TOKEN] = Identity("system:serviceaccount:models:trt-action", RULES)
        for image in (OLD, NEW, OTHER):
            double.images[image] = Image()
        double.images[f"{NAME}/sidecar:1"] = Image(digest="sha256:" + "5" * 64)
        yield double
    assert double.violations == []


Put = Callable[..., None]


@pytest.fixture
def put(k8s: Kubernetes) -> Put:
    """Create a workload and wait until it is there."""

    def done(kind: str = "deployment", image: str = OLD, **changes: Any) -> None:
        k8s.create(manifest(kind, image, **changes))
        k8s.wait(lambda: k8s.settled(RESOURCES[kind], "detector", image))

    return done


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def access(k8s: Kubernetes) -> Access:
    return Access(k8s.url, lambda: Login(SecretStr(TOKEN)), "the test", "models", k8s.ca.read_bytes())


@pytest.fixture
def cluster(access: Access, log: list[str]) -> Iterator[Cluster]:
    """Retries as always, with waits of a hundredth."""
    import time

    def sleep(seconds: float) -> None:
        time.sleep(seconds / 100)

    with Cluster(
        access, http.Patience(seconds=60, attempts=4, sleep=sleep, jitter=lambda: 0.0, log=log.append)
    ) as made:
        yield made


def order(log: list[str], kind: str = "deployment", **changes: Any) -> Order:
    values: dict[str, Any] = {
        "limits": Limits(timeout=20.0, stuck=0.5, look=0.2),
        "by": "octocat",
        "show": lambda text, _share: log.append(text),
        "log": log.append,
        **changes,
    }
    return Order(Workload.parse(f"{kind}/detector", "models"), values.pop("container", "detector"), **values)


def facts(image: str = NEW, **known: str) -> Facts:
    return Facts(image=image, digest=image.partition("@")[2], **known)
