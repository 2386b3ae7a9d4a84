"""What a job of GitHub Actions publishes or promotes. Imported only by a job that may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from trt_action import orders
from trt_action.evidence import Evidence
from trt_action.github import commands
from trt_action.job import Job, read_payload
from trt_action.orders import Order
from trt_action.publish import Options, publishing
from trt_action.publish.reference import Reference
from trt_action.results import Shipped

GITHUB_REGISTRY = "ghcr.io"
"""Where the job's own token is a login, if the workflow gives it `packages: write`."""


def ship(job: Job, evidences: Sequence[Evidence], kept: Sequence[Path]) -> Shipped:
    """Publish every model of the run; none if one of them may not be.

    Args:
        kept: the version folder of each evidence (`engine.kept`).

    Raises:
        NotPublishedError, TrtActionError: as `orders.publish`.
    """
    if job.inputs.image is None and job.inputs.registry is None:
        commands.plain("Nothing is published: neither `registry` nor `image` says where.")
        return Shipped()
    shipped = orders.publish(_order(job), evidences, kept)
    if not job.inputs.history:
        return shipped
    return replace(shipped, summary=f"{shipped.summary}\n{orders.trend(_order(job), job.activity.ref)}")


def release(job: Job) -> Shipped:
    """Give the image that was measured for the release's commit its tags.

    Raises:
        SettingsError, VerificationError, RegistryError, GitError: as `orders.release`.
    """
    if job.inputs.image is None and job.inputs.registry is None:
        commands.plain("Nothing is promoted: neither `registry` nor `image` says where.")
        return Shipped()
    tag = job.activity.tag or ""
    shipped = orders.release(_order(job), tag, job.activity.commit or "HEAD")
    if shipped is None:
        commands.Annotations().add("warning", orders.not_a_version(tag), title="Not promoted")
    return shipped or Shipped()


def login(job: Job) -> tuple[str | None, SecretStr | None]:
    """Name and password for the image's registry; of GitHub's own one the job's token is the default."""
    username, password = job.inputs.publish.username, job.inputs.publish.password
    host = Reference.parse(job.image).host
    if host == GITHUB_REGISTRY and not username and not password and job.inputs.token is not None:
        return job.env.get("GITHUB_ACTOR") or "token", job.inputs.token
    return username, password


def _order(job: Job) -> Order:
    return Order(
        image=job.image,
        asked=job.inputs.publish,
        login=login(job),
        env=job.env,
        workspace=job.workspace,
        facts=_facts(job),
        builder=_builder(job),
        log=commands.plain,
    )


def _facts(job: Job) -> dict[str, Any]:
    activity = job.activity
    default = (read_payload(job.env).get("repository") or {}).get("default_branch")
    found: dict[str, Any] = dict(publishing.facts_of(activity.ref))
    if activity.pull_request:
        found = {"pull_request": activity.pull_request.number}
    return {**found, "default_branch": bool(default) and found.get("branch") == default}


def _builder(job: Job) -> str:
    server, workflow = job.env.get("GITHUB_SERVER_URL"), job.env.get("GITHUB_WORKFLOW_REF")
    return f"{server}/{workflow}" if server and workflow else Options.builder
