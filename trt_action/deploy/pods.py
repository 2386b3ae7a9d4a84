"""The pods of a workload: which run the image, which are in trouble, and why, in the cluster's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote as percent

from trt_action.console import clean
from trt_action.deploy.cluster import Cluster
from trt_action.deploy.workload import INFERENCE_SERVICE, Json, Workload
from trt_action.errors import DeployError

MAX_SHOWN = 3
"""Pods whose trouble is told."""
MAX_EVENTS, MAX_LINES, MAX_WORDS = 4, 8, 300

TROUBLES = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
        "Error",
        "OOMKilled",
        "Unschedulable",
    }
)
"""Reasons that do not go away by waiting, as a rule."""


@dataclass(frozen=True)
class Pod:
    """What matters of one pod. `image`: as its container names it; `running`: the digest that runs; `waits`: why it
    is not ready, as `REASON: message` (foreign text); `trouble`: the reason is one of `TROUBLES`."""

    name: str
    image: str
    running: str
    ready: bool
    ending: bool
    waits: str
    trouble: bool
    restarts: int

    def has(self, image: str) -> bool:
        """Whether it was made for this image. The digest decides: a cluster may pull from a mirror of its own."""
        _, at, digest = image.partition("@")
        return digest in self.image or self.running == digest if at else self.image == image


def selector(workload: Workload, found: Json) -> str:
    """The labels of its pods, as a query writes them."""
    if workload.kind is INFERENCE_SERVICE:
        return f"serving.kserve.io/inferenceservice={workload.name}"
    chosen = found.get("spec", {}).get("selector", {})
    parts = [f"{key}={value}" for key, value in (chosen.get("matchLabels") or {}).items()]
    for one in chosen.get("matchExpressions") or []:
        key, values = one.get("key"), ",".join(map(str, one.get("values") or []))
        parts.append(
            {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": f"{key}"}.get(
                str(one.get("operator")), f"!{key}"
            )
        )
    return ",".join(parts)


def of(cluster: Cluster, workload: Workload, found: Json, container: str) -> list[Pod]:
    """The pods of a workload that have not ended.

    Raises:
        DeployError: they cannot be listed.
    """
    path = f"/api/v1/namespaces/{workload.namespace}/pods"
    listed = cluster.get(path, labelSelector=selector(workload, found)).get("items")
    known = [one for one in (listed if isinstance(listed, list) else []) if isinstance(one, dict)]
    return [_read(one, container) for one in known if one.get("status", {}).get("phase") not in ("Succeeded", "Failed")]


def digest_of(pods: Sequence[Pod]) -> str:
    """The digest that all ready pods run; empty where they do not agree."""
    found = {pod.running for pod in pods if pod.ready and not pod.ending}
    return found.pop() if len(found) == 1 else ""


def told(cluster: Cluster, workload: Workload, pods: Sequence[Pod], container: str) -> str:
    """Why pods did not become ready: state, events, last log lines. What cannot be read is left out."""
    stuck = [pod for pod in pods if not pod.ready and not pod.ending]
    parts = [_one(cluster, workload, pod, container) for pod in stuck[:MAX_SHOWN]]
    if len(stuck) > MAX_SHOWN:
        parts.append(f"{len(stuck) - MAX_SHOWN} more pods are not ready.")
    return " ".join(parts)


def short(text: object) -> str:
    """Foreign text for a message: one printable line of at most `MAX_WORDS` characters."""
    line = clean(str(text))
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"


def _read(pod: Json, container: str) -> Pod:
    metadata, status = pod.get("metadata", {}), pod.get("status", {})
    spec = _named(pod.get("spec", {}).get("containers"), container)
    state = _named(status.get("containerStatuses"), container)
    conditions = {str(one.get("type")): one for one in status.get("conditions") or [] if isinstance(one, dict)}
    ready = conditions.get("Ready", {}).get("status") == "True"
    reason, message = ("", "") if ready else _reason(status, state, conditions)
    return Pod(
        name=str(metadata.get("name", "")),
        image=str(spec.get("image", "")),
        running=str(state.get("imageID") or "").rpartition("@")[2],
        ready=ready,
        ending="deletionTimestamp" in metadata,
        waits=short(f"{reason}: {message}" if message else reason),
        trouble=reason in TROUBLES,
        restarts=_number(state.get("restartCount")),
    )


def _reason(status: Json, container: Json, conditions: Mapping[str, Any]) -> tuple[str, str]:
    """Init containers come first: the others wait for them."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason") or "Unschedulable"), str(scheduled.get("message") or "")
    inits = [one for one in status.get("initContainerStatuses") or [] if isinstance(one, dict) and not one.get("ready")]
    for one in (*inits, container):
        state = one.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        last = (one.get("lastState") or {}).get("terminated") or {}
        message = str(waiting.get("message") or ended.get("message") or "")
        if last:
            message = f"{message} (last end: {last.get('reason')}, exit code {last.get('exitCode')})".strip()
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return str(waiting["reason"]), message
        if ended and (ended.get("exitCode") or one is container):
            return str(ended.get("reason") or "Error"), f"exit code {ended.get('exitCode')} {message}".strip()
    if (container.get("state") or {}).get("running"):
        return "NotReady", "it runs, and its readiness probe does not say yes"
    return "ContainerCreating", ""


def _one(cluster: Cluster, workload: Workload, pod: Pod, container: str) -> str:
    text = f"Pod `{pod.name}`: {pod.waits}."
    if pod.restarts:
        text += f" It was started again {pod.restarts} times."
    if events := _events(cluster, workload, pod.name):
        text += f" Events: {'; '.join(events)}."
    if lines := _log(cluster, workload, pod, container):
        text += f" Last lines of its log: {' | '.join(lines)}"
    return text


def _events(cluster: Cluster, workload: Workload, pod: str) -> list[str]:
    try:
        listed = cluster.get(
            f"/api/v1/namespaces/{workload.namespace}/events",
            fieldSelector=f"involvedObject.kind=Pod,involvedObject.name={pod}",
        ).get("items")
    except DeployError:
        return []
    known = [one for one in (listed if isinstance(listed, list) else []) if isinstance(one, dict)]
    texts = [short(f"{one.get('reason')}: {one.get('message')}") for one in known if one.get("type") == "Warning"]
    return list(dict.fromkeys(texts))[-MAX_EVENTS:]


def _log(cluster: Cluster, workload: Workload, pod: Pod, container: str) -> list[str]:
    """Of the last run that ended, where there was one: the one that runs now has not failed yet."""
    path = f"/api/v1/namespaces/{workload.namespace}/pods/{percent(pod.name)}/log"
    for previous in ("true", "false") if pod.restarts else ("false",):
        try:
            text = cluster.text(path, container=container, tailLines=str(MAX_LINES), previous=previous)
        except DeployError:
            continue
        if lines := [short(line) for line in text.splitlines() if line.strip()]:
            return lines[-MAX_LINES:]
    return []


def _named(listed: object, name: str) -> Json:
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and one.get("name") == name:
            return one
    return {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
