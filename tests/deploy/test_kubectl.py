"""The double is what kubectl takes for a cluster; and kubectl sees what we have done."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.conftest import NEW, OLD, OTHER, TOKEN, Put, facts, order
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Fault, Identity, Kubernetes
from trt_action.deploy import deploying
from trt_action.deploy.cluster import Cluster

Kubectl = Callable[..., str]


@pytest.fixture
def kubectl(k8s: Kubernetes, tmp_path: Path) -> Kubectl:
    """The real kubectl as somebody who may everything; `code` is its exit code."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not on PATH (apt-get install kubernetes-client)")
    config = k8s.kubeconfig(tmp_path / "admin.conf", token="admin")  # noqa: S106 - the double's own

    def run(*arguments: str, code: int = 0, config: Path = config) -> str:
        done = subprocess.run(
            [str(program), *arguments],
            env={"HOME": str(tmp_path), "KUBECONFIG": str(config), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_get_set_image_and_rollout(k8s: Kubernetes, put: Put, kubectl: Kubectl) -> None:
    put()
    assert "detector" in kubectl("get", "deployments")
    assert kubectl("get", "deploy/detector", "-o", "jsonpath={.spec.template.spec.containers[0].image}") == OLD
    assert "image updated" in kubectl("set", "image", "deployment/detector", f"detector={NEW}")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/detector", "--timeout=20s")
    assert k8s.settled("deployments", "detector", NEW)
    assert kubectl("rollout", "history", "deployment/detector").count("\n") >= 4
    assert "rolled back" in kubectl("rollout", "undo", "deployment/detector")
    kubectl("rollout", "status", "deployment/detector", "--timeout=20s")
    assert k8s.settled("deployments", "detector", OLD)


def test_a_stateful_set(k8s: Kubernetes, put: Put, kubectl: Kubectl) -> None:
    put("statefulset")
    kubectl("set", "image", "statefulset/detector", f"detector={NEW}")
    assert "rolling update complete" in kubectl("rollout", "status", "statefulset/detector", "--timeout=20s")
    assert k8s.settled("statefulsets", "detector", NEW)


def test_it_sees_the_deadline_and_the_watch_that_is_cut(k8s: Kubernetes, put: Put, kubectl: Kubectl) -> None:
    put(progressDeadlineSeconds=1)
    k8s.images[NEW] = Image("unready")
    k8s.faults = [Fault("GET", "watch", "cut", times=2), Fault("GET", "watch", "gone", times=1)]
    kubectl("set", "image", "deployment/detector", f"detector={NEW}")
    said = kubectl("rollout", "status", "deployment/detector", "--timeout=30s", code=1)
    assert "exceeded its progress deadline" in said


def test_refusals_reach_it(k8s: Kubernetes, put: Put, kubectl: Kubectl, tmp_path: Path) -> None:
    put()
    mine = k8s.kubeconfig(tmp_path / "mine.conf", token=TOKEN)
    assert "Forbidden" in kubectl("delete", "deployment/detector", code=1, config=mine)
    assert "Forbidden" in kubectl("get", "deployments", code=1, config=mine)
    kubectl("get", "deployment/detector", config=mine)
    k8s.faults = [Fault("PATCH", "detector", status=422, reason="Invalid", message="no such thing")]
    assert "no such thing" in kubectl("set", "image", "deployment/detector", f"detector={NEW}", code=1)
    wrong = k8s.kubeconfig(tmp_path / "wrong.conf", token="wrong")  # noqa: S106 - no token
    assert "Unauthorized" in kubectl("get", "pods", code=1, config=wrong)


def test_a_client_certificate(k8s: Kubernetes, put: Put, kubectl: Kubectl, tmp_path: Path) -> None:
    put()
    k8s.users["jane"] = Identity("jane")
    config = k8s.kubeconfig(tmp_path / "jane.conf", pair=k8s.authority.user("jane"))
    assert "detector" in kubectl("get", "deployments", config=config)


def test_what_we_did_is_in_its_history(
    k8s: Kubernetes, put: Put, kubectl: Kubectl, cluster: Cluster, log: list[str]
) -> None:
    put()
    deploying.deploy(cluster, facts(NEW, commit="4f2a9c1"), order(log))
    assert f"trt-action deploy {NEW} (commit 4f2a9c1)" in kubectl("rollout", "history", "deployment/detector")
    kubectl("rollout", "undo", "deployment/detector")
    kubectl("rollout", "status", "deployment/detector", "--timeout=20s")
    assert k8s.settled("deployments", "detector", OLD)
    deploying.deploy(cluster, facts(OTHER), order(log))
    assert deploying.rollback(cluster, order(log)).image == OLD


def test_patch_of_a_custom_resource(k8s: Kubernetes, put: Put, kubectl: Kubectl) -> None:
    """A strategic merge is refused there, as a real server refuses it; a JSON merge is taken."""
    put("inferenceservice")
    patch = '{"metadata": {"annotations": {"touched": "yes"}}}'
    assert "touched" not in kubectl("get", "isvc/detector", "-o", "yaml")
    assert "unknown format" in kubectl("patch", "isvc/detector", "--type=strategic", "-p", patch, code=1)
    assert "patched" in kubectl("patch", "isvc/detector", "--type=merge", "-p", patch)
    assert "touched" in kubectl("get", "isvc/detector", "-o", "yaml")
