"""How far is a rollout? Pure: an object and its pods in, a state out.

The rules are those of `kubectl rollout status`
(https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status); those of an InferenceService
are KServe's conditions and, since these stay true while old pods still answer, its pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_action.deploy.pods import Pod, short
from trt_action.deploy.workload import DEPLOYMENT, STATEFUL_SET, Json, Workload
from trt_action.errors import DeployError


@dataclass(frozen=True)
class State:
    """`done`: everything runs the image and is ready. `failed`: why it will not come, in words; empty while it may.
    `share`: of the pods, in [0, 1]; None where it is not known."""

    done: bool
    text: str
    share: float | None = None
    failed: str = ""


def check(workload: Workload, found: Json) -> None:
    """Refuse a workload whose pods would not follow a change.

    Raises:
        DeployError: it is paused, ends, or waits for somebody to delete its pods.
    """
    spec, metadata = found.get("spec", {}), found.get("metadata", {})
    if "deletionTimestamp" in metadata:
        raise DeployError(f"{workload} is being deleted.", fix="Make it anew, then deploy.")
    if spec.get("paused") is True:
        raise DeployError(
            f"{workload} is paused: a change would not be rolled out.", fix=f"`kubectl rollout resume {workload}`."
        )
    if workload.kind is STATEFUL_SET and spec.get("updateStrategy", {}).get("type") == "OnDelete":
        raise DeployError(
            f"{workload} has the update strategy `OnDelete`: a change waits until somebody deletes its pods.",
            fix="Set `updateStrategy: {type: RollingUpdate}`.",
        )


def condition(found: Json) -> Json:
    """What the cluster says of a Deployment's progress."""
    return _condition(found, "Progressing")


def state(workload: Workload, found: Json, pods: Sequence[Pod], image: str, outdated: Json | None = None) -> State:
    """How far the rollout of `image` is.

    Args:
        outdated: the `condition` from before the change. Kubernetes keeps `ProgressDeadlineExceeded` until a pod comes
            or goes (`DeploymentTimedOut`, pkg/controller/deployment/util): on the way back it is the last rollout's.
    """
    generation = found.get("metadata", {}).get("generation", 0)
    status = found.get("status", {})
    if status.get("observedGeneration", 0 if workload.kind.builtin else generation) < generation:
        return State(False, "the cluster has not seen the change yet")
    if workload.kind is DEPLOYMENT:
        return _deployment(found, outdated)
    if workload.kind is STATEFUL_SET:
        return _stateful_set(found)
    return _inference_service(found, pods, image)


def _deployment(found: Json, outdated: Json | None) -> State:
    status = found.get("status", {})
    wanted = found.get("spec", {}).get("replicas", 1)
    updated, every = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    text = f"{updated} of {wanted} pods updated, {available} available"
    share = min(updated, available) / wanted if wanted else None
    said = condition(found)
    if said.get("reason") == "ProgressDeadlineExceeded" and said != outdated:
        return State(False, text, share, "the cluster gave up (ProgressDeadlineExceeded)")
    if updated < wanted:
        return State(False, text, share)
    if every > updated:
        return State(False, f"{text}, {every - updated} old ones still end", share)
    return State(available >= updated, text, share)


def _stateful_set(found: Json) -> State:
    spec, status = found.get("spec", {}), found.get("status", {})
    wanted = spec.get("replicas", 1)
    partition = (spec.get("updateStrategy", {}).get("rollingUpdate") or {}).get("partition") or 0
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    text = f"{updated} of {wanted} pods updated, {ready} ready"
    if partition:
        text += f"; those below {partition} keep the old image (partition)"
    share = min(updated, ready) / wanted if wanted else None
    if ready < wanted or updated < max(0, wanted - partition):
        return State(False, text, share)
    settled = bool(partition) or status.get("updateRevision") == status.get("currentRevision")
    return State(settled, text, share)


def _inference_service(found: Json, pods: Sequence[Pod], image: str) -> State:
    status = found.get("status", {})
    ready = _condition(found, "Ready")
    transition = (status.get("modelStatus") or {}).get("transitionStatus")
    live = [pod for pod in pods if not pod.ending]
    fresh = [pod for pod in live if pod.has(image)] if image else live
    text = f"{sum(pod.ready for pod in fresh)} of {len(live)} pods ready with the image"
    if ready.get("status") != "True":
        text += f", Ready: {short(ready.get('reason') or ready.get('status') or 'unknown')}"
    share = sum(pod.ready for pod in fresh) / len(live) if live else None
    if transition in ("BlockedByFailedLoad", "InvalidSpec"):
        failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
        return State(False, text, share, short(f"KServe says {transition}: {failure.get('message') or ''}"))
    predictor = (status.get("components") or {}).get("predictor") or {}
    revisions = {predictor.get("latestCreatedRevision"), predictor.get("latestReadyRevision")}
    settled = len(revisions) == 1 and transition in (None, "", "UpToDate")
    return State(
        ready.get("status") == "True" and settled and len(fresh) == len(live) and all(pod.ready for pod in fresh),
        text,
        share,
    )


def _condition(found: Json, kind: str) -> Json:
    for one in found.get("status", {}).get("conditions") or []:
        if isinstance(one, dict) and one.get("type") == kind:
            return one
    return {}
