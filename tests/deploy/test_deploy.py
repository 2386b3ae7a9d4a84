"""Deploying: what is sent, what is waited for, what is undone, and what people are told."""

from __future__ import annotations

import dataclasses
import time

import pytest
from pydantic import SecretStr

from tests.deploy.conftest import NAME, NEW, OLD, OTHER, RESOURCES, TOKEN, Put, facts, order
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Fault, Kubernetes
from trt_action.deploy import deploying
from trt_action.deploy.access import Access, Login
from trt_action.deploy.cluster import Cluster
from trt_action.deploy.facts import KEYS, PREFIX
from trt_action.deploy.rollout import Limits
from trt_action.errors import DeployError, SettingsError

EVERY = pytest.mark.parametrize("kind", list(RESOURCES))


def image_of(k8s: Kubernetes, kind: str = "deployment") -> str:
    spec = k8s.get(RESOURCES[kind], "detector")["spec"]
    containers = (
        spec["predictor"]["containers"] if kind == "inferenceservice" else spec["template"]["spec"]["containers"]
    )
    assert containers[1] == {"name": "sidecar", "image": f"{NAME}/sidecar:1"}  # nobody else's container is touched
    assert containers[0]["env"] == [{"name": "A", "value": "1"}]
    return str(containers[0]["image"])


def notes_of(k8s: Kubernetes, kind: str = "deployment") -> dict[str, str]:
    """Our annotations."""
    held = k8s.get(RESOURCES[kind], "detector")["metadata"].get("annotations", {})
    assert held["team"] == "vision"
    return {key.removeprefix(PREFIX): value for key, value in held.items() if key in KEYS}


def patches(k8s: Kubernetes) -> int:
    return sum(one.method == "PATCH" for one in k8s.seen)


@EVERY
def test_a_rollout(kind: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put(kind)
    known = facts(commit="4f2a9c1", evidence="sha256:" + "e" * 64, outcome="passed", verdict="improved")
    done = deploying.deploy(cluster, known, order(log, kind))
    assert (done.done, done.image, done.before) == ("deployed", NEW, OLD)
    k8s.wait(lambda: k8s.settled(RESOURCES[kind], "detector", NEW))
    assert image_of(k8s, kind) == NEW
    notes = notes_of(k8s, kind)
    assert notes.pop("deployed-at").startswith("20")
    assert notes == {
        "image": NEW,
        "digest": "sha256:" + "b" * 64,
        "commit": "4f2a9c1",
        "evidence": "sha256:" + "e" * 64,
        "outcome": "passed",
        "verdict": "improved",
        "deployed-by": "octocat",
        "previous-image": OLD,
        "previous-digest": "sha256:" + "a" * 64,
        "container": "detector",
        "kubernetes.io/change-cause": f"trt-action deploy {NEW} (commit 4f2a9c1)",
    }
    assert patches(k8s) == 1
    assert any("of 2 pods" in line for line in log)


@EVERY
def test_the_same_digest_again_changes_nothing(
    kind: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    put(kind)
    deploying.deploy(cluster, facts(), order(log, kind))
    before = k8s.get(RESOURCES[kind], "detector")
    done = deploying.deploy(cluster, facts(), order(log, kind))
    assert done.done == "unchanged"
    assert patches(k8s) == 1
    assert k8s.get(RESOURCES[kind], "detector") == before
    assert any("already: nothing is changed" in line for line in log)


@EVERY
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image("pull", message="manifest unknown \x1b[31m::error::x"), "PullBackOff"),
        (Image("crash", log="loading engine\nRuntimeError: wrong GPU \x1b[2J\n"), "RuntimeError: wrong GPU"),
        (Image("config"), 'secret "models" not found'),
    ],
    ids=["pull", "crash", "config"],
)
def test_what_does_not_come_up_is_put_back(
    kind: str, image: Image, words: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    put(kind)
    deploying.deploy(cluster, facts(OTHER), order(log, kind))
    before, spec = notes_of(k8s, kind), k8s.get(RESOURCES[kind], "detector")["spec"]
    k8s.images[NEW] = image
    with pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log, kind))
    error = caught.value
    assert "did not come up in" in error.what
    assert "has been in trouble" in error.what
    assert words in error.why
    assert "`detector-" in error.why
    assert f"was put back to `{OTHER}`" in error.why
    assert "It is rolled out again." in error.why
    assert "\x1b" not in error.why
    assert "::error::" not in error.why
    assert notes_of(k8s, kind) == before
    assert k8s.get(RESOURCES[kind], "detector")["spec"] == spec
    k8s.wait(lambda: k8s.settled(RESOURCES[kind], "detector", OTHER))


def test_a_pod_that_is_never_ready_ends_with_the_time_limit(
    k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    put()
    k8s.images[NEW] = Image("unready", log="waiting for the model\n")
    with pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log, limits=Limits(timeout=1.0, look=0.2)))
    assert "was not done within 1 s" in caught.value.what
    assert "NotReady" in caught.value.why
    assert "waiting for the model" in caught.value.why
    k8s.wait(lambda: k8s.settled("deployments", "detector", OLD))


def test_the_clusters_own_deadline(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put(progressDeadlineSeconds=1)
    k8s.images[NEW] = Image("unready")
    with pytest.raises(DeployError, match="ProgressDeadlineExceeded"):
        deploying.deploy(cluster, facts(), order(log))
    assert image_of(k8s) == OLD


def test_its_deadline_is_not_taken_for_that_of_the_way_back(
    k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    """With one replica nothing moves until the broken pod is gone: the condition of before is still there."""
    put(progressDeadlineSeconds=1, replicas=1)
    k8s.controllers.ends = 50
    k8s.images[NEW] = Image("unready")
    with pytest.raises(DeployError, match="ProgressDeadlineExceeded") as caught:
        deploying.deploy(cluster, facts(), order(log))
    assert "It is rolled out again." in caught.value.why


def test_a_rollback_after_the_deadline(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put(progressDeadlineSeconds=1, replicas=1)
    k8s.controllers.ends = 50
    deploying.deploy(cluster, facts(OTHER), order(log))
    k8s.images[NEW] = Image("unready")
    stuck = k8s.get("deployments", "detector")
    patched = {"image": NEW, "previous-image": OTHER, "previous-digest": OTHER.partition("@")[2]}
    stuck["metadata"]["annotations"] |= {PREFIX + key: value for key, value in patched.items()}
    stuck["spec"]["template"]["spec"]["containers"][0]["image"] = NEW
    k8s.store.put("deployments", stuck)
    k8s.wait(lambda: "ProgressDeadlineExceeded" in str(k8s.get("deployments", "detector")["status"]))
    assert deploying.rollback(cluster, order(log)).image == OTHER


def test_a_tag_of_before_is_recorded_with_its_digest(
    k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    tagged, digest = f"{NAME}:1.0", "sha256:" + "7" * 64
    k8s.images[tagged] = Image(digest=digest)
    k8s.images[f"{NAME}@{digest}"] = Image()
    put(image=tagged)
    deploying.deploy(cluster, facts(), order(log))
    assert notes_of(k8s)["previous-image"] == tagged
    assert notes_of(k8s)["previous-digest"] == digest
    done = deploying.rollback(cluster, order(log))
    assert done.image == f"{NAME}@{digest}"
    k8s.wait(lambda: k8s.settled("deployments", "detector", f"{NAME}@{digest}"))


@EVERY
def test_a_rollback(kind: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put(kind)
    deploying.deploy(cluster, facts(OTHER, commit="1111111", verdict="improved"), order(log, kind))
    deploying.deploy(cluster, facts(NEW, commit="2222222"), order(log, kind))
    done = deploying.rollback(cluster, order(log, kind, container=None))
    assert (done.done, done.image, done.before) == ("rolled-back", OTHER, NEW)
    k8s.wait(lambda: k8s.settled(RESOURCES[kind], "detector", OTHER))
    notes = notes_of(k8s, kind)
    assert (notes["commit"], notes["verdict"], notes["rolled-back-from"]) == ("1111111", "improved", NEW)
    assert "previous-digest" not in notes
    with pytest.raises(DeployError, match="was rolled back already"):
        deploying.rollback(cluster, order(log, kind))
    digest = NEW.partition("@")[2]
    assert deploying.rollback(cluster, order(log, kind), digest).image == NEW
    assert image_of(k8s, kind) == NEW


def test_no_way_back(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put()
    with pytest.raises(DeployError, match="does not say what ran before"):
        deploying.rollback(cluster, order(log))
    deploying.deploy(cluster, facts(), order(log))
    found = k8s.get("deployments", "detector")
    found["spec"]["template"]["spec"]["containers"][0]["image"] = OTHER
    k8s.store.put("deployments", found)
    with pytest.raises(DeployError) as caught:
        deploying.rollback(cluster, order(log))
    assert "belongs to" in caught.value.what
    assert "without `trt-action`" in caught.value.why
    assert image_of(k8s) == OTHER


@EVERY
def test_a_dry_run_keeps_nothing(kind: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put(kind)
    before = k8s.get(RESOURCES[kind], "detector")
    done = deploying.deploy(cluster, facts(), order(log, kind, dry_run=True))
    assert done.done == "would-deploy"
    assert ("image", OLD, NEW) in done.changes
    assert (f"{PREFIX}previous-digest", "", OLD.partition("@")[2]) in done.changes
    assert k8s.get(RESOURCES[kind], "detector")["spec"] == before["spec"]
    assert notes_of(k8s, kind) == {}


@EVERY
@pytest.mark.parametrize("times", [1, 3])
def test_conflicts_are_read_again(
    kind: str, times: int, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    put(kind)

    def meddle() -> None:
        found = k8s.get(RESOURCES[kind], "detector")
        found["metadata"]["annotations"]["touched"] = str(len(k8s.seen))
        k8s.store.put(RESOURCES[kind], found)

    k8s.faults = [Fault("PATCH", "detector", "meddle", meddle=meddle, times=times)]
    deploying.deploy(cluster, facts(), order(log, kind))
    assert patches(k8s) == times + 1
    assert image_of(k8s, kind) == NEW
    assert k8s.get(RESOURCES[kind], "detector")["metadata"]["annotations"]["touched"]


def test_a_conflict_that_never_ends(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put()
    k8s.faults = [Fault("PATCH", "detector", status=409, reason="Conflict", times=99)]
    with pytest.raises(DeployError, match="was changed 8 times by others"):
        deploying.deploy(cluster, facts(), order(log))
    assert notes_of(k8s) == {}


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "Get a new token"),
        (403, "rbac.yaml"),
        (404, "kubectl get"),
        (422, "nothing was changed"),
        (503, "Try again"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_refusals(
    method: str, status: int, fix: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    put()
    k8s.faults = [Fault(method, "deployments", status=status, message=f"no, {TOKEN} \x1b[1m", times=99)]
    with pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log))
    error = caught.value
    assert f"HTTP {status} for {method}" in error.what
    assert fix in f"{error.fix} {error.why}"
    assert TOKEN not in f"{error.what}{error.why}{error.fix}{log}"
    assert "\x1b" not in error.why
    k8s.faults.clear()
    assert image_of(k8s) == OLD
    assert notes_of(k8s) == {}


@pytest.mark.parametrize("kind", ["lost-answer", "reset"])
def test_a_patch_whose_answer_is_lost(kind: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put()
    k8s.faults = [Fault("PATCH", "deployments", kind)]  # type: ignore[arg-type]
    assert deploying.deploy(cluster, facts(), order(log)).done == "deployed"
    assert notes_of(k8s)["previous-image"] == OLD
    assert image_of(k8s) == NEW


def test_a_login_that_ends_in_the_middle_and_is_not_renewed(
    k8s: Kubernetes, put: Put, access: Access, log: list[str]
) -> None:
    """The login program works once. Nothing can be put back then, and it is said what is to be done."""
    put()
    logins = iter([Login(SecretStr(TOKEN))])

    def login() -> Login:
        for one in logins:
            return one
        raise SettingsError("The login program `aws` failed.", fix="Log in.")

    k8s.faults = [Fault("GET", "deployments/detector", status=401, times=999, skip=1)]
    with Cluster(dataclasses.replace(access, login=login)) as cluster, pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log))
    assert "login program `aws` failed" in caught.value.what
    assert "Putting it back failed as well" in caught.value.why
    assert "trt-action rollback" in caught.value.fix


def test_a_cluster_that_goes_away_in_the_middle(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    """Nothing can be undone then: it says so, and the next run goes on from the annotations."""
    put()
    k8s.images[NEW] = Image("crash")
    k8s.faults = [Fault("GET", "deployments/detector", status=503, times=999, skip=1), Fault("PATCH", "x", times=0)]
    with pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log))
    assert "Putting it back failed as well" in caught.value.why
    assert "trt-action rollback" in caught.value.fix
    k8s.faults.clear()
    with pytest.raises(DeployError, match="in trouble"):
        deploying.deploy(cluster, facts(), order(log))
    assert image_of(k8s) == OLD
    k8s.wait(lambda: k8s.settled("deployments", "detector", OLD))


@pytest.mark.parametrize("kind", ["cut", "gone"])
def test_watches_that_end(kind: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put()
    k8s.faults = [Fault("GET", "watch", kind, times=99)]  # type: ignore[arg-type]
    assert deploying.deploy(cluster, facts(), order(log)).done == "deployed"
    watches = [one for one in k8s.seen if "watch" in one.query]
    assert watches
    assert len(watches) < 60  # and it did not ask hotly


def test_somebody_else_sets_another_image(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put()
    k8s.images[NEW] = Image("unready")

    def meddle() -> None:
        found = k8s.get("deployments", "detector")
        found["spec"]["template"]["spec"]["containers"][0]["image"] = OTHER
        k8s.store.put("deployments", found)

    k8s.faults = [Fault("GET", "deployments/detector", "meddle", meddle=meddle, skip=2)]
    with pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log))
    assert "Somebody else has set" in caught.value.what
    assert "trt-action bump" in caught.value.fix
    assert image_of(k8s) == OTHER


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("deployment", {"paused": True}, "is paused"),
        ("statefulset", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
    ],
)
def test_workloads_that_would_not_follow(
    kind: str, spec: dict[str, object], words: str, k8s: Kubernetes, cluster: Cluster, log: list[str], put: Put
) -> None:
    put(kind)
    found = k8s.get(RESOURCES[kind], "detector")
    found["spec"] |= spec
    k8s.store.put(RESOURCES[kind], found)
    with pytest.raises(DeployError, match=words):
        deploying.deploy(cluster, facts(), order(log, kind))
    assert patches(k8s) == 0


def test_containers(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put()
    with pytest.raises(DeployError, match="has 2 containers"):
        deploying.deploy(cluster, facts(), order(log, container=None))
    with pytest.raises(DeployError) as caught:
        deploying.deploy(cluster, facts(), order(log, container="detecter"))
    assert caught.value.fix == "Did you mean `detector`?"


def test_what_was_never_rolled_out_is_nothing_to_return_to(
    k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]
) -> None:
    """B was killed in the middle (kill -9) and never worked; C's way back is A."""
    put()
    k8s.images[OTHER] = Image("crash")
    k8s.faults = [Fault("GET", "deployments/detector", status=401, times=2, skip=1), Fault("PATCH", "detector", status=401, skip=1, times=9)]  # fmt: skip
    with pytest.raises(DeployError):
        deploying.deploy(cluster, facts(OTHER), order(log))
    k8s.faults.clear()
    assert image_of(k8s) == OTHER
    deploying.deploy(cluster, facts(NEW), order(log))
    assert notes_of(k8s)["previous-image"] == OLD
    assert deploying.rollback(cluster, order(log)).image == OLD


@pytest.mark.parametrize("then", ["rollback", "deploy"])
def test_a_stateful_set_that_is_stuck(then: str, k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    """Killed in the middle of what never came up: the pods that it waits for are deleted on the way on, and back."""
    put("statefulset")
    k8s.images[OTHER] = Image("crash")
    k8s.faults = [Fault("GET", "statefulsets/detector", status=401, times=2, skip=1), Fault("PATCH", "detector", status=401, skip=1, times=9)]  # fmt: skip
    with pytest.raises(DeployError):
        deploying.deploy(cluster, facts(OTHER), order(log, "statefulset"))
    k8s.faults.clear()
    assert image_of(k8s, "statefulset") == OTHER
    k8s.wait(lambda: any("2" in str(one) for one in k8s.store.all("events")))
    if then == "rollback":
        assert deploying.rollback(cluster, order(log, "statefulset")).image == OLD
    else:
        deploying.deploy(cluster, facts(NEW), order(log, "statefulset"))
    wanted = OLD if then == "rollback" else NEW
    k8s.wait(lambda: k8s.settled("statefulsets", "detector", wanted))
    assert any("which never became ready" in line for line in log)


def test_pods_that_may_not_be_deleted(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> None:
    put("statefulset")
    k8s.images[NEW] = Image("crash")
    k8s.faults = [Fault("DELETE", "pods", status=403, reason="Forbidden", times=9)]
    short = Limits(timeout=1.0, stuck=0.3, look=0.2)
    with pytest.raises(DeployError) as caught:
        deploying.deploy(_impatient(cluster), facts(), order(log, "statefulset", limits=short))
    assert f"was put back to `{OLD}`" in caught.value.why
    assert "could not be deleted, and it waits for them" in caught.value.why
    assert image_of(k8s, "statefulset") == OLD


def _impatient(cluster: Cluster) -> Cluster:
    """A minute of its clock is a second."""
    began, real = time.monotonic(), time.monotonic
    cluster.patience = dataclasses.replace(cluster.patience, clock=lambda: began + (real() - began) * 20)
    return cluster
