"""What makes pods of workloads, and what runs them: controllers and a kubelet, one small step per tick.

The rules of rolling updates, of `ProgressDeadlineExceeded` and of a StatefulSet that waits for a broken pod are those of
Kubernetes' documentation; KServe's are those of its RawDeployment mode.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from tests.doubles.kubernetes.store import Json, Store, now

TICK = 0.01
REVISION = "deployment.kubernetes.io/revision"


@dataclass
class Image:
    """How containers of an image behave. `digest`: what a tag means; `after`: ticks until ready."""

    kind: Literal["ok", "pull", "crash", "unready", "config"] = "ok"
    digest: str = ""
    log: str = ""
    after: int = 1
    message: str = ""


@dataclass
class Controllers:
    """All of them; `run` in a thread. `paused` holds everything still."""

    store: Store
    images: dict[str, Image] = field(default_factory=dict)
    unknown: Image = field(default_factory=lambda: Image("pull"))
    logs: dict[str, str] = field(default_factory=dict)
    deadline: float = 600.0
    """Seconds without progress, if a Deployment does not say."""
    ends: int = 0
    """Ticks that a pod takes to end."""
    paused: bool = False
    _ages: dict[str, int] = field(default_factory=dict)
    _endings: dict[str, int] = field(default_factory=dict)
    _progress: dict[str, tuple[set[str], tuple[int, int, int], str, float]] = field(default_factory=dict)
    _names: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    broken: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self._stop.wait(TICK):
            if self.paused:
                continue
            try:
                with self.store.changed:
                    self._tick()
            except Exception as error:  # noqa: BLE001 - a bug of the double must fail the test, not hang it
                self.broken.append(repr(error))
                return

    def stop(self) -> None:
        self._stop.set()

    def _tick(self) -> None:
        for pod in self.store.all("pods"):
            self._kubelet(pod)
        for one in self.store.all("deployments"):
            self._deployment(one)
        for one in self.store.all("statefulsets"):
            self._stateful_set(one)
        for one in self.store.all("inferenceservices"):
            self._inference_service(one)

    # Kubelet

    def _kubelet(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        if "deletionTimestamp" in pod["metadata"]:
            self._endings[name] = self._endings.get(name, 0) + 1
            if self._endings[name] <= self.ends:
                return
            self.store.delete("pods", pod["metadata"]["namespace"], name)
            return
        age = self._ages[name] = self._ages.get(name, 0) + 1
        statuses, ready = [], True
        for container in pod["spec"]["containers"]:
            status = self._container(pod, container, age)
            statuses.append(status)
            ready = ready and status["ready"]
        pod["status"] = {
            "phase": "Running" if any("running" in s["state"] for s in statuses) else "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if ready else "False"},
            ],
            "containerStatuses": statuses,
        }
        self.store.put("pods", pod)

    def _image(self, text: str) -> Image:
        return self.images.get(text) or self.images.get(text.partition("@")[2]) or self.unknown

    def _container(self, pod: Json, container: Json, age: int) -> Json:
        image, name = self._image(container["image"]), pod["metadata"]["name"]
        digest = container["image"].partition("@")[2] or image.digest
        status: Json = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
        }
        if age < 2:
            return status | {"state": {"waiting": {"reason": "ContainerCreating"}}}
        if image.kind == "pull":
            text = image.message or f'Failed to pull image "{container["image"]}": not found'
            self._event(pod, "Failed", text)
            reason = "ErrImagePull" if age < 5 else "ImagePullBackOff"
            return status | {"state": {"waiting": {"reason": reason, "message": text}}}
        if image.kind == "config":
            waiting = {"reason": "CreateContainerConfigError", "message": 'secret "models" not found'}
            return status | {"state": {"waiting": waiting}}
        status["imageID"] = f"docker-pullable://{container['image'].partition('@')[0].partition(':')[0]}@{digest}"
        self.logs[f"{name}/{container['name']}"] = image.log
        if image.kind == "crash":
            status["restartCount"] = age // 5
            last = {"lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}} if age >= 5 else {}
            if age % 5 < 2:
                return status | last | {"state": {"running": {"startedAt": now()}}}
            self._event(pod, "BackOff", "Back-off restarting failed container")
            return status | last | {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}}
        status["ready"] = image.kind == "ok" and age >= 2 + image.after
        return status | {"state": {"running": {"startedAt": now()}}}

    def _event(self, pod: Json, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        self.store.put(
            "events",
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{metadata['name']}.{reason.lower()}", "namespace": metadata["namespace"]},
                "involvedObject": {"kind": "Pod", "name": metadata["name"], "namespace": metadata["namespace"]},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "lastTimestamp": metadata["creationTimestamp"],
            },
        )

    # Deployments

    def _deployment(self, one: Json) -> None:
        if one["spec"].get("paused"):
            return
        metadata, spec = one["metadata"], one["spec"]
        sets = [r for r in self.store.all("replicasets", metadata["namespace"]) if _owned(r, one)]
        last = max([int(r["metadata"]["annotations"][REVISION]) for r in sets], default=0)
        digest = _digest(spec["template"])
        name = f"{metadata['name']}-{digest}"
        new = next((r for r in sets if r["metadata"]["name"] == name), None)
        if new is None or int(new["metadata"]["annotations"][REVISION]) < last:
            new = self._replica_set(one, new, name, digest, last + 1)
        cause = metadata.get("annotations", {}).get("kubernetes.io/change-cause")
        annotations = {k: v for k, v in {"kubernetes.io/change-cause": cause}.items() if v}
        new["metadata"]["annotations"] = {REVISION: new["metadata"]["annotations"][REVISION]} | annotations
        self.store.put("replicasets", new)
        metadata.setdefault("annotations", {})[REVISION] = new["metadata"]["annotations"][REVISION]
        pods = self._pods(metadata["namespace"], spec["selector"]["matchLabels"])
        self._roll(one, pods, spec["template"], name, spec.get("replicas", 1), {"pod-template-hash": digest})
        self._deployment_status(one, pods, digest)

    def _replica_set(self, one: Json, old: Json | None, name: str, digest: str, revision: int) -> Json:
        metadata = one["metadata"]
        found = old or {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "labels": one["spec"]["template"]["metadata"]["labels"] | {"pod-template-hash": digest},
                "ownerReferences": [_owner(one)],
            },
            "spec": {
                "replicas": one["spec"].get("replicas", 1),
                "selector": one["spec"]["selector"],
                "template": _labelled(one["spec"]["template"], {"pod-template-hash": digest}),
            },
            "status": {"replicas": 0},
        }
        found["metadata"]["annotations"] = {REVISION: str(revision)}
        return dict(found)

    def _roll(
        self, one: Json, pods: list[Json], template: Json, prefix: str, wanted: int, labels: dict[str, str]
    ) -> None:
        """maxSurge 1, maxUnavailable 0: a new pod, and when it is ready an old one goes."""
        fresh = [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]
        old = [pod for pod in pods if pod not in fresh and "deletionTimestamp" not in pod["metadata"]]
        ready = [pod for pod in pods if _ready(pod)]
        broken = [pod for pod in old if not _ready(pod)]
        if len(fresh) < wanted and len(pods) < wanted + 1:
            self._names += 1
            self._pod(one, template, f"{prefix}-{self._names:05x}", labels)
        elif broken:
            self._end(broken[0])
        elif old and (len(ready) > wanted or wanted == 0):
            self._end(old[0])
        elif len(fresh) > wanted:
            self._end(fresh[0])

    def _deployment_status(self, one: Json, pods: list[Json], digest: str) -> None:
        fresh = [pod for pod in pods if pod["metadata"]["labels"].get("pod-template-hash") == digest]
        ready = sum(_ready(pod) for pod in pods)
        wanted = one["spec"].get("replicas", 1)
        status: Json = {
            "observedGeneration": one["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": len(fresh),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, wanted - ready),
        }
        complete = len(fresh) == wanted == len(pods) and all(_ready(pod) for pod in fresh)
        reason, since = self._progressing(one, digest, (len(fresh), len(fresh) - len(pods), ready), complete=complete)
        stuck = reason == "ProgressDeadlineExceeded"
        available = ready >= wanted
        status["conditions"] = [
            {
                "type": "Available",
                "status": "True" if available else "False",
                "reason": "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            },
            {
                "type": "Progressing",
                "status": "False" if stuck else "True",
                "reason": reason,
                "lastUpdateTime": datetime.datetime.fromtimestamp(since, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        ]
        one["status"] = status
        self.store.put("deployments", one)

    def _progressing(
        self, one: Json, digest: str, counts: tuple[int, int, int], *, complete: bool
    ) -> tuple[str, float]:
        """(reason, since). As Kubernetes' controller: a new ReplicaSet, more new, fewer old or more ready pods are
        progress. `ProgressDeadlineExceeded` stays until there is some, also over a change to a ReplicaSet of before."""
        key, now = one["metadata"]["uid"], time.time()
        known, before, reason, since = self._progress.get(key, (set[str](), (0, 0, 0), "", now))
        if complete:
            new = "NewReplicaSetAvailable"
        elif digest not in known or any(is_now > was for is_now, was in zip(counts, before, strict=True)):
            new, since = "ReplicaSetUpdated", now
        elif reason == "ReplicaSetUpdated" and now - since > one["spec"].get("progressDeadlineSeconds", self.deadline):
            new = "ProgressDeadlineExceeded"
        else:
            new = reason
        since = since if new == reason else now
        self._progress[key] = (known | {digest}, counts, new, since)
        return new, since

    # StatefulSets

    def _stateful_set(self, one: Json) -> None:
        metadata, spec = one["metadata"], one["spec"]
        update = f"{metadata['name']}-{_digest(spec['template'])}"
        wanted = spec.get("replicas", 1)
        status = one.get("status") or {}
        current = status.get("currentRevision") or update
        by_name = {p["metadata"]["name"]: p for p in self._pods(metadata["namespace"], spec["selector"]["matchLabels"])}
        pods = [by_name.get(f"{metadata['name']}-{n}") for n in range(wanted)]
        self._ordered(one, pods, update)
        there = [pod for pod in pods if pod]
        updated = [p for p in there if p["metadata"]["labels"].get("controller-revision-hash") == update]
        ready = sum(_ready(pod) for pod in there)
        if len(updated) == wanted == ready:
            current = update
        one["status"] = {
            "observedGeneration": metadata["generation"],
            "replicas": len(there),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "updatedReplicas": len(updated),
            "currentRevision": current,
            "updateRevision": update,
        }
        self.store.put("statefulsets", one)

    def _ordered(self, one: Json, pods: list[Json | None], update: str) -> None:
        """Pod by pod. One that is there and not ready stops everything, whatever it runs (kubernetes#67250)."""
        for number, pod in enumerate(pods):
            if pod is None:
                name = f"{one['metadata']['name']}-{number}"
                self._ages.pop(name, None)
                self._pod(one, one["spec"]["template"], name, {"controller-revision-hash": update})
                return
            if not _ready(pod):
                return
        if one["spec"].get("updateStrategy", {}).get("type") == "OnDelete":
            return
        for pod in reversed(pods):
            if pod and pod["metadata"]["labels"].get("controller-revision-hash") != update:
                self._end(pod)
                return

    # KServe

    def _inference_service(self, one: Json) -> None:
        metadata, predictor = one["metadata"], one["spec"]["predictor"]
        containers = predictor.get("containers") or [{"image": predictor["model"].get("image") or "kserve/runtime:1"}]
        containers = [{"name": "kserve-container", **container} for container in containers]
        labels = {"serving.kserve.io/inferenceservice": metadata["name"]}
        copied = {k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith("kubectl.")}
        template = {"metadata": {"labels": labels, "annotations": copied}, "spec": {"containers": containers}}
        digest = _digest(template)
        pods = self._pods(metadata["namespace"], labels)
        prefix = f"{metadata['name']}-predictor-{digest}"
        wanted = predictor.get("minReplicas", 1)
        self._roll(one, pods, template, prefix, wanted, {"pod-template-hash": digest})
        ready = sum(_ready(pod) for pod in pods) >= wanted
        one["status"] = {
            "observedGeneration": metadata["generation"],
            "conditions": [
                {"type": name, "status": "True" if ready else "False", "reason": "" if ready else "MinimumReplicasUnavailable"}
                for name in ("PredictorReady", "Ready")
            ],
            "modelStatus": {"transitionStatus": "UpToDate" if ready else "InProgress"},
        }  # fmt: skip
        self.store.put("inferenceservices", one)

    # Pods

    def _pods(self, namespace: str, labels: dict[str, str]) -> list[Json]:
        every = self.store.all("pods", namespace)
        return [pod for pod in every if labels.items() <= pod["metadata"]["labels"].items()]

    def _pod(self, owner: Json, template: Json, name: str, labels: dict[str, str]) -> None:
        metadata = {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": template["metadata"]["labels"] | labels,
            "ownerReferences": [_owner(owner)],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {}}
        self.store.put("pods", pod)

    def _end(self, pod: Json) -> None:
        pod["metadata"]["deletionTimestamp"] = now()
        self.store.put("pods", pod)


def _digest(template: Json) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:9]


def _labelled(template: Json, labels: dict[str, str]) -> Json:
    metadata = template["metadata"]
    return {**template, "metadata": {**metadata, "labels": metadata["labels"] | labels}}


def _owner(one: Json) -> Json:
    return {
        "apiVersion": one["apiVersion"],
        "kind": one["kind"],
        "name": one["metadata"]["name"],
        "uid": one["metadata"]["uid"],
        "controller": True,
    }


def _owned(found: Json, owner: Json) -> bool:
    return any(one["uid"] == owner["metadata"]["uid"] for one in found["metadata"].get("ownerReferences", []))


def _ready(pod: Json) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", [])
    )
