"""What a job of GitLab publishes or promotes. Imported only by a job that may: nothing else reads a registry's login."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trt_action import errors, orders
from trt_action.gitlab import api, inputs
from trt_action.gitlab.inputs import Target
from trt_action.gitlab_job import Job
from trt_action.gitlab_stages import read_kept
from trt_action.inputs import quote
from trt_action.orders import Order
from trt_action.publish import Options, version
from trt_action.publish.version import Version
from trt_action.results import Shipped


def measured(job: Job) -> list[Version]:
    """The engines that the test job has kept.

    Raises:
        NotPublishedError: there is no engine, or it was measured for another commit.
        BuildError, EvidenceError: an engine or its evidence is not what was recorded.
    """
    engines = [version.read(folder) for folder in read_kept(job)]
    for engine in engines:
        _check_commit(job, engine)
    return engines


def publish(job: Job, engines: Sequence[Version]) -> Shipped:
    """Publish measured engines: what is there now, in their order; nothing where nothing says where to.

    Raises:
        NotPublishedError: a gate does not hold.
        TrtActionError: as `orders.publish_engines`.
    """
    target = inputs.target(job.env)
    order = _order(job, target)
    if order is None:
        job.say("Nothing is published: the project has no registry, and neither `registry` nor `image` names one.")
        return Shipped()
    shipped = orders.publish_engines(order, engines)
    if not target.history:
        return shipped
    return replace(shipped, summary=f"{shipped.summary}\n{orders.trend(order, job.activity.ref)}")


def promote(job: Job) -> Shipped | None:
    """Give the image that was measured for the release's commit its tags; None: there is nothing to do.

    Raises:
        TrtActionError: as `orders.release`.
    """
    order = _order(job, inputs.target(job.env))
    if order is None:
        job.say("Nothing is promoted: the project has no registry, and neither `registry` nor `image` names one.")
        return None
    tag = job.activity.tag or ""
    shipped = orders.release(order, tag, job.activity.commit)
    if shipped is None:
        job.say(orders.not_a_version(tag))
    return shipped


def _check_commit(job: Job, engine: Version) -> None:
    """Artifacts of another pipeline are evidence of another commit."""
    source, here = engine.evidence.source, job.activity.measured_commit
    if here not in (source.measured_commit, source.commit):
        raise errors.NotPublishedError(
            f"Nothing is published: {quote(engine.folder.name)} was measured for the commit "
            f"{quote(str(source.measured_commit or source.commit)[:12])}, and this pipeline is of {here[:12]}.",
            fix="Take the artifacts of this pipeline's own test job.",
        )


def _order(job: Job, found: Target) -> Order | None:
    if found.image is None:
        return None
    return Order(
        image=found.image,
        asked=found.asked,
        login=(found.username, found.password),
        env=job.env,
        workspace=job.workspace,
        facts=job.facts(),
        builder=job.env.get("CI_PROJECT_URL") or Options.builder,
        ca=api.authority(job.env) if found.own else None,
        log=job.say,
    )
