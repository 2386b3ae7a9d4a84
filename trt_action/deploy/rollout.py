"""A change goes to a cluster, is followed until it is there, and is put back if it does not come.

Who stops us (SIGINT, SIGTERM) gets the change put back too: nobody would judge it otherwise. kill -9 cannot: what is
needed to go on or to go back is in the annotations, which were written with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trt_action.console import clean
from trt_action.deploy import facts, pods, progress, workload
from trt_action.deploy.cluster import Cluster
from trt_action.deploy.pods import Pod
from trt_action.deploy.progress import State
from trt_action.deploy.workload import STATEFUL_SET, Container, Json, Workload
from trt_action.errors import DeployError
from trt_action.inputs import quote
from trt_action.process import Progress

CONFLICTS = 8
"""How often a change is tried again where somebody else changes the workload at the same time."""

STUCK_SECONDS = 60.0
"""A pod of the new image that has been in trouble for so long ends the rollout, before its time limit."""

RESTARTS = 3
"""A pod that was started again so often is in trouble also while it runs for a moment."""

SHORT_SECONDS = 0.3
"""Changes come in bursts: between two looks there is at least this."""


@dataclass(frozen=True)
class Before:
    """What a change is undone to: an image as the workload named it, and every annotation of ours as it was."""

    image: str
    annotations: Mapping[str, str | None]


@dataclass(frozen=True)
class Limits:
    """Seconds: of a whole rollout, of one pod in trouble, and between two looks at the pods if nothing rings."""

    timeout: float = 600.0
    stuck: float = STUCK_SECONDS
    look: float = 5.0


@dataclass(frozen=True)
class Failure:
    """Why what was put there may not stay. `foreign`: somebody else has set another image: it is theirs, and stays."""

    error: DeployError
    foreign: bool = False


@dataclass
class Rollout:
    """One container of one workload that is to run `image`.

    Args:
        show: told how far it is. `log`: told what happens.
    """

    cluster: Cluster
    target: Workload
    container: str
    image: str
    limits: Limits = field(default_factory=Limits)
    show: Progress = lambda _text, _share: None
    log: Callable[[str], None] = lambda _: None
    sent: bool = False
    """Whether a change was sent: from then on the cluster may have it, answer or not."""
    outdated: Json | None = None
    """What the cluster said of its progress before the change (`progress.condition`)."""

    def put(self, found: Json, changes: Callable[[Json], Mapping[str, str | None]], *, dry_run: bool = False) -> Json:
        """Set the image and the annotations that `changes` makes of the object; read again where somebody else has
        changed it meanwhile.

        Raises:
            DeployError: refused, changed again and again, or the cluster has kept something else than was asked.
        """
        for _ in range(CONFLICTS):
            spot = workload.find(self.target, found, self.container)
            change = workload.patch(self.target, found, spot, self.image, changes(found))
            self.sent, self.outdated = not dry_run, progress.condition(found)
            try:
                answer = self.cluster.patch(self.target.path, change, dry_run=dry_run)
            except DeployError as error:
                if error.status != 409:
                    raise
                self.log(f"{self.target} was changed meanwhile: it is read again.")
                self.cluster.patience.sleep(SHORT_SECONDS)
                found = self.cluster.get(self.target.path)
                if not dry_run and self.is_there(found):  # the answer to our own patch was lost
                    return found
                continue
            kept = workload.find(self.target, answer, self.container).image
            if kept != self.image:
                self.log(f"The cluster made {quote(kept)} of {quote(self.image)} (an admission webhook).")
            return answer
        raise DeployError(
            f"{self.target} was changed {CONFLICTS} times by others while we tried to change it; nothing was done.",
            fix="Find out who does that (`kubectl get --show-managed-fields`), then run it again.",
            status=409,
        )

    def is_there(self, found: Json) -> bool:
        """Whether the object asks for the image; the digest decides."""
        return same(workload.find(self.target, found, self.container).image, self.image)

    def follow(self, timeout: float | None = None) -> Failure | None:
        """Wait until the image is rolled out; None: it is.

        Raises:
            DeployError: the cluster does not answer, or does not let us look.
        """
        clock = self.cluster.patience.clock
        limit = timeout or self.limits.timeout
        end = clock() + limit
        troubled: dict[str, float] = {}
        while True:
            found, listed = self.look()
            if foreign := self.taken(found):
                return foreign
            state = progress.state(self.target, found, listed, self.image, self.outdated)
            self.show(_told(state, [pod for pod in listed if pod.has(self.image)]), state.share)
            if state.done:
                return None
            failed = state.failed or self._stuck(listed, troubled, clock())
            if failed or clock() >= end:
                return self.failed(failed or f"it was not done within {limit:g} s ({state.text})", listed)
            self._wait(found, min(self.limits.look, max(0.1, end - clock())))

    def look(self) -> tuple[Json, list[Pod]]:
        """The object and its pods, as they are now."""
        found = self.cluster.get(self.target.path)
        return found, pods.of(self.cluster, self.target, found, self.container)

    def taken(self, found: Json) -> Failure | None:
        """Whether somebody else has set another image."""
        if self.is_there(found):
            return None
        now = workload.find(self.target, found, self.container).image
        error = DeployError(
            f"Somebody else has set {self.target} to {quote(now)} while {quote(self.image)} was rolled out.",
            why="Nothing was undone: what is there now is theirs. A GitOps controller (Argo CD, Flux) does this to "
            "changes that are not in Git.",
            fix="For such a controller change the file in Git: `trt-action bump`.",
        )
        return Failure(error, foreign=True)

    def failed(self, reason: str, listed: Sequence[Pod]) -> Failure:
        """The failure for a reason, with what the pods of the image say."""
        fresh = [pod for pod in listed if pod.has(self.image)]
        error = DeployError(
            f"{quote(self.image)} did not come up in {self.target} ({self.target.namespace}): {reason}.",
            why=pods.told(self.cluster, self.target, fresh, self.container),
        )
        return Failure(error)

    def undo(self, before: Before) -> str:
        """Put image and annotations back, if the image is still ours. Returns what was done, in words.

        Raises:
            DeployError: the cluster refuses, or does not answer.
        """
        for _ in range(CONFLICTS):
            found = self.cluster.get(self.target.path)
            spot = workload.find(self.target, found, self.container)
            if not same(spot.image, self.image):
                if spot.image == before.image:
                    return f"{self.target} is at {quote(before.image)}, as before."
                return f"{self.target} was left alone: somebody else has set it to {quote(spot.image)} meanwhile."
            change = workload.patch(self.target, found, spot, before.image, before.annotations)
            self.outdated = progress.condition(found)
            try:
                self.cluster.patch(self.target.path, change)
            except DeployError as error:
                if error.status != 409:
                    raise
                continue
            stuck = self.free(self.image)
            return f"{self.target} was put back to {quote(before.image or '(no image)')}.{stuck}"
        raise DeployError(f"{self.target} is changed by others all the time: it could not be put back.", status=409)

    def free(self, image: str) -> str:
        """Delete the pods of an image that has been replaced and never became ready: a StatefulSet waits for them
        forever (kubernetes/kubernetes#67250). Other kinds replace them. Returns what went wrong, in words."""
        if self.target.kind is not STATEFUL_SET:
            return ""
        try:
            for pod in self.look()[1]:
                if pod.has(image) and not pod.ready and not pod.ending:
                    self.log(f"Deleting the pod {quote(pod.name)}, which never became ready.")
                    self.cluster.delete(f"/api/v1/namespaces/{self.target.namespace}/pods/{pod.name}")
        except DeployError as error:
            return f" Its pods that never became ready could not be deleted, and it waits for them: {error.what}"
        return ""

    def settle(self, before: Before) -> Failure | None:
        """Wait until what was put back is rolled out; None: it is.

        Raises:
            DeployError: as `follow`.
        """
        back = Rollout(self.cluster, self.target, self.container, before.image, self.limits, self.show, self.log)
        back.outdated = self.outdated
        return back.follow(max(self.limits.timeout, 60.0))

    def _wait(self, found: Json, seconds: float) -> None:
        patience = self.cluster.patience
        began = patience.clock()
        version = str(found.get("metadata", {}).get("resourceVersion", ""))
        self.cluster.changed(self.target.collection, self.target.name, version, seconds)
        patience.sleep(max(0.0, SHORT_SECONDS - (patience.clock() - began)))

    def _stuck(self, listed: list[Pod], troubled: dict[str, float], now: float) -> str:
        """A pull that works at last, or one crash, is forgotten; who crashes again and again is not."""
        for pod in listed:
            if pod.ready or pod.ending or not pod.has(self.image) or not (pod.trouble or pod.restarts >= RESTARTS):
                troubled.pop(pod.name, None)
                continue
            since = troubled.setdefault(pod.name, now)
            if now - since >= self.limits.stuck:
                return f"the pod {quote(pod.name)} has been in trouble for {now - since:.0f} s"
        return ""


def same(image: str, other: str) -> bool:
    """Whether two texts name the same image: the same digest, or the same text where there is none."""
    digest, asked = image.partition("@")[2], other.partition("@")[2]
    return digest == asked if digest and asked else image == other


def before_of(target: Workload, found: Json, spot: Container) -> Before:
    """What `found` is now, to be put back to."""
    return Before(spot.image, facts.as_they_were(workload.annotations_of(found)))


def _told(state: State, fresh: list[Pod]) -> str:
    stuck = next((pod for pod in fresh if pod.waits and not pod.ending), None)
    return clean(f"{state.text}; {stuck.name}: {stuck.waits}" if stuck and not state.done else state.text)
