"""Deploy by digest, and back: look, change, follow, check; and put back whatever does not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn

from trt_action.deploy import facts, pods, progress, rollout, workload
from trt_action.deploy.cluster import Cluster
from trt_action.deploy.facts import Facts
from trt_action.deploy.rollout import Before, Failure, Limits, Rollout
from trt_action.deploy.workload import Container, Json, Workload
from trt_action.errors import DeployError, InterruptedRunError
from trt_action.inputs import quote
from trt_action.process import Progress
from trt_action.publish.reference import Reference

Done = Literal["deployed", "unchanged", "rolled-back", "would-deploy", "would-roll-back"]
Checks = Callable[[Rollout], Failure | None]
"""What must hold once the image is rolled out; None: it holds."""


@dataclass(frozen=True)
class Order:
    """What is done to which workload, and how. `container` None: the only one.

    Args:
        by: who deploys, in words, for the annotation.
        confirm: called right before the cluster is changed; may refuse by raising.
    """

    target: Workload
    container: str | None = None
    limits: Limits = field(default_factory=Limits)
    dry_run: bool = False
    by: str = ""
    checks: Checks | None = None
    confirm: Callable[[], None] = lambda: None
    show: Progress = lambda _text, _share: None
    log: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Deployed:
    """What was done. `changes`: (name, before, after) of the image and of each annotation, of a dry run too."""

    done: Done
    target: Workload
    container: str
    image: str
    before: str
    seconds: float
    changes: tuple[tuple[str, str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "done": self.done,
            "workload": str(self.target),
            "namespace": self.target.namespace,
            "container": self.container,
            "image": self.image,
            "digest": self.image.partition("@")[2],
            "before": self.before,
            "seconds": round(self.seconds, 3),
            "changes": [dict(zip(("name", "before", "after"), one, strict=True)) for one in self.changes],
        }


def deploy(cluster: Cluster, image: Facts, order: Order) -> Deployed:
    """Roll `image` (by digest) out. The same digest again changes nothing; checks are made anew.

    Raises:
        DeployError: the cluster refuses; or it failed, and says what was put back.
        InterruptedRunError: stopped by a signal; the change is put back, and not waited for.
    """
    began = cluster.patience.clock()
    found = cluster.get(order.target.path)
    progress.check(order.target, found)
    spot = workload.find(order.target, found, order.container)
    now = replace(image, deployed_at=_now(), deployed_by=order.by)
    work = _Work(cluster, order, spot.name, now)

    def result(done: Done, after: Json | None = None) -> Deployed:
        changes = _changes(order.target, found, after, spot.name) if after else ()
        seconds = cluster.patience.clock() - began
        return Deployed(done, order.target, spot.name, image.image, spot.image, seconds, changes)

    if work.rollout.is_there(found):
        if order.dry_run or (order.checks is None and work.finished(found)):
            order.log(f"{order.target} is at {quote(image.image)} already: nothing is changed.")
            return result("unchanged")
        work.resume(found)
        work.finish()
        return result("unchanged")
    order.confirm()
    if order.dry_run:
        return result("would-deploy", work.put(found))
    after = work.put(found)
    if work.unfinished:
        work.rollout.free(spot.image)
    work.finish()
    return result("deployed", after)


def rollback(cluster: Cluster, order: Order, to: str | None = None) -> Deployed:
    """Return to the digest that the annotations name as the one before, or to `to`. Nothing is undone if that does not
    come up: what ran before it is what somebody wanted to get away from.

    Raises:
        DeployError: there is no way back, the cluster refuses, or it did not come up.
    """
    began = cluster.patience.clock()
    found = cluster.get(order.target.path)
    progress.check(order.target, found)
    held = workload.annotations_of(found)
    spot = workload.find(order.target, found, order.container or held.get(facts.CONTAINER))
    goal = _goal(order.target, found, spot, to)
    now = replace(goal, deployed_at=_now(), deployed_by=order.by)
    turn = Rollout(cluster, order.target, spot.name, now.image, order.limits, order.show, order.log)

    def changes(latest: Json) -> Mapping[str, str | None]:
        there = workload.find(order.target, latest, spot.name).image
        if there != spot.image:
            raise DeployError(
                f"Somebody else has set {order.target} to {quote(there)} meanwhile; it was left alone.",
                fix="Look at it, then run the rollback again.",
            )
        cause = f"trt-action rollback to {now.image} (from {spot.image})"
        return facts.written(now, None, spot.name, cause=cause, rolled_back_from=there)

    after, before = found, spot.image
    try:
        if turn.is_there(found):
            before = held.get(facts.ROLLED_BACK_FROM) or before
            order.log(f"{order.target} is at {quote(now.image)} already.")
        else:
            after = turn.put(found, changes, dry_run=order.dry_run)
        if not order.dry_run and (stuck := turn.free(before)):
            order.log(stuck.strip())
        failure = None if order.dry_run else turn.follow()
    except KeyboardInterrupt as stop:
        state = "It was sent, and the cluster finishes it by itself." if turn.sent else "Nothing was changed."
        raise InterruptedRunError(str(stop) or "The rollback was stopped (Ctrl-C).", why=state) from None
    if failure is not None:
        raise _with(failure.error, "The rollback stays in place; nothing else was changed.")
    return Deployed(
        "would-roll-back" if order.dry_run else "rolled-back",
        order.target,
        spot.name,
        now.image,
        before,
        cluster.patience.clock() - began,
        _changes(order.target, found, after, spot.name),
    )


@dataclass
class _Work:
    """One deployment: what is put there, and what it is put back to."""

    cluster: Cluster
    order: Order
    container: str
    now: Facts
    before: Before | None = None
    unfinished: bool = False
    """What ran before was never rolled out."""

    def __post_init__(self) -> None:
        order = self.order
        self.rollout = Rollout(
            self.cluster, order.target, self.container, self.now.image, order.limits, order.show, order.log
        )

    def finished(self, found: Json) -> bool:
        listed = pods.of(self.cluster, self.order.target, found, self.container)
        return progress.state(self.order.target, found, listed, self.now.image).done

    def put(self, found: Json) -> Json:
        """Change the workload. Where it is not certain whether that took effect, it is put back."""
        try:
            return self.rollout.put(found, self._changes, dry_run=self.order.dry_run)
        except KeyboardInterrupt as stop:
            self._stopped(stop)
        except DeployError as error:
            if not self.rollout.sent or 0 < error.status < 500:
                raise
            self._put_back(error)

    def resume(self, found: Json) -> None:
        """Go on with a change that is there already, and may not have been finished (kill -9)."""
        self.rollout.sent = True
        recorded = facts.previous(workload.annotations_of(found))
        if recorded is not None:
            self.before = self._recorded(recorded)

    def finish(self) -> None:
        """Follow and check.

        Raises:
            DeployError: it did not come up or does not hold; what was done about it is in the message.
        """
        try:
            failure = self.rollout.follow()
            if failure is None and self.order.checks is not None:
                failure = self.order.checks(self.rollout)
        except KeyboardInterrupt as stop:
            self._stopped(stop)
        except DeployError as error:
            failure = Failure(error)
        if failure is None:
            return
        if failure.foreign:
            raise failure.error
        self._put_back(failure.error)

    def _changes(self, found: Json) -> Mapping[str, str | None]:
        """The annotations of the change; what it is undone to is settled with the same reading."""
        spot = workload.find(self.order.target, found, self.container)
        held = workload.annotations_of(found)
        own, recorded = facts.current(held), facts.previous(held)
        ours = own is not None and rollout.same(own.image, spot.image)
        listed = pods.of(self.cluster, self.order.target, found, self.container)
        if ours and recorded is not None and not self._was_done(found, listed, spot):
            self.order.log(
                f"{quote(spot.image)} was never rolled out: {quote(recorded.image)} counts as the one before."
            )
            before, self.unfinished = recorded, True
            self.before = self._recorded(recorded)
        else:
            digest = spot.image.partition("@")[2] or pods.digest_of(listed)
            before = own if ours and own is not None else Facts(spot.image, digest)
            self.before = rollout.before_of(self.order.target, found, spot)
        cause = f"trt-action deploy {self.now.image}" + (f" (commit {self.now.commit})" if self.now.commit else "")
        return facts.written(self.now, before, self.container, cause=cause)

    def _was_done(self, found: Json, listed: list[pods.Pod], spot: Container) -> bool:
        return progress.state(self.order.target, found, listed, spot.image).done

    def _recorded(self, recorded: Facts) -> Before:
        cause = f"trt-action rollback to {recorded.image}"
        return Before(recorded.image, facts.written(recorded, None, self.container, cause=cause))

    def _put_back(self, error: DeployError) -> NoReturn:
        """Undo, wait for it, and raise `error` with what became of it."""
        if self.before is None:
            raise _with(error, "Nothing was undone: no image of before is recorded.", _TO) from None
        try:
            undone = self.rollout.undo(self.before)
            self.order.log(undone)
            again = self.rollout.settle(self.before)
        except KeyboardInterrupt as stop:
            self._stopped(stop)
        except DeployError as second:
            fix = f"Once the cluster answers: `trt-action rollback --workload {self.order.target}`."
            raise _with(error, f"Putting it back failed as well: {second.what}", fix) from None
        state = (
            "It is rolled out again." if again is None else f"But {again.error.what[:1].lower()}{again.error.what[1:]}"
        )
        raise _with(error, f"{undone} {state}") from None

    def _stopped(self, stop: KeyboardInterrupt) -> NoReturn:
        """Put back with one request and do not wait: a runner kills seconds after its signal."""
        words = "Nothing was undone: no image of before is recorded."
        if not self.rollout.sent:
            words = "Nothing was changed."
        elif self.before is not None:
            try:
                words = f"{self.rollout.undo(self.before)} The cluster finishes this by itself."
            except DeployError as error:
                words = f"It could not be put back: {error.what}"
        raise InterruptedRunError(
            str(stop) or "The run was stopped (Ctrl-C).",
            why=f"{quote(self.now.image)} was not judged yet, so it does not stay. {words}",
            fix="Deploy again, or look with `kubectl rollout status`.",
        ) from None


_TO = "Name a digest that worked: `trt-action rollback --to sha256:…`."


def _goal(target: Workload, found: Json, spot: Container, to: str | None) -> Facts:
    """What a rollback goes to."""
    held = workload.annotations_of(found)
    own, recorded, left = facts.current(held), facts.previous(held), held.get(facts.ROLLED_BACK_FROM)
    if to is not None:
        name = spot.image or (recorded.image if recorded else "")
        if recorded and recorded.digest == to:
            return replace(recorded, image=_at(recorded.image, to))
        return Facts(_at(name, to), to)
    if left and own and rollout.same(own.image, spot.image):
        status = f"{target} was rolled back already, from {quote(left)} to {quote(spot.image)} at {own.deployed_at}"
        if _unfinished(target, found, spot):
            return own
        raise DeployError(f"{status}; nothing earlier is recorded.", fix=_TO)
    if own is None or recorded is None:
        raise DeployError(
            f"{target} does not say what ran before: `trt-action deploy` has not changed it yet.", fix=_TO
        )
    if not rollout.same(own.image, spot.image):
        raise DeployError(
            f"{target} runs {quote(spot.image)}, and what it says of before belongs to {quote(own.image)}.",
            why="Somebody has changed the image without `trt-action`.",
            fix=_TO,
        )
    if not recorded.digest:
        raise DeployError(
            f"What ran before is recorded as {quote(recorded.image)}, and its digest is not known.", fix=_TO
        )
    return replace(recorded, image=_at(recorded.image, recorded.digest))


def _unfinished(target: Workload, found: Json, spot: Container) -> bool:
    """Without pods: only what the object itself tells."""
    return not progress.state(target, found, [], spot.image).done


def _at(image: str, digest: str) -> str:
    """The repository of `image` by another digest."""
    if not image:
        raise DeployError("It is not known which repository the digest is in.", fix="Use `trt-action deploy IMAGE`.")
    return str(Reference.parse(image).at(digest))


def _with(error: DeployError, more: str, fix: str = "") -> DeployError:
    return DeployError(error.what, why=f"{error.why} {more}".strip(), fix=fix or error.fix, status=error.status)


def _changes(target: Workload, before: Json, after: Json, name: str) -> tuple[tuple[str, str, str], ...]:
    """The image and our annotations, where they differ."""
    old, new = (workload.annotations_of(one) for one in (before, after))
    images = [workload.find(target, one, name).image for one in (before, after)]
    pairs = [("image", *images), *((key, old.get(key, ""), new.get(key, "")) for key in facts.KEYS)]
    return tuple((key, one, other) for key, one, other in pairs if one != other)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
