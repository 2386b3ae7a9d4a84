"""What a job does with an image once it is published or promoted: rolls it out, or tells those who do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import requests

from trt_action import errors, shipping
from trt_action.deploy import access, cluster, deploying, gitops, hook, image, wanted
from trt_action.deploy.bump import Wish
from trt_action.deploy.deploying import Deployed, Order
from trt_action.deploy.wanted import Bump
from trt_action.deploy.workload import Workload
from trt_action.github import commands, credentials, handover
from trt_action.github.api import Client
from trt_action.inputs import quote
from trt_action.job import Job
from trt_action.model import git
from trt_action.publish import opening
from trt_action.publish.reference import Reference
from trt_action.results import Shipped

if TYPE_CHECKING:
    from trt_action.deploy.facts import Facts


def after(job: Job, shipped: Shipped, keep: Callable[[Shipped], None] = lambda _: None) -> Shipped:
    """Deploy what was just published or promoted, everywhere that the inputs name; the first failure ends it.

    Args:
        keep: told after each step what there is to tell by then: a later step that fails undoes none of them.

    Raises:
        DeployError: not rolled out, and put back; or a command, an event, a file did not get through.
        TrtActionError: as the rooms raise it.
    """
    asked = job.inputs.deploy
    if not asked.anything or asked.on != job.activity.kind or not shipped.outputs.get("image"):
        return shipped
    if any(one.get("left-tags") for one in shipped.outputs.get("images") or []):
        commands.plain("Nothing is deployed: a newer run has published already, and this image would be a step back.")
        return shipped
    target = _image(shipped.outputs)
    known = _known(job, target)
    outputs: dict[str, Any] = dict(shipped.outputs)
    lines: list[str] = []

    def told(line: str) -> Shipped:
        lines.append(f"- {line}")
        text = "\n".join([f"### Deployed `{target}`", "", *lines, ""])
        so_far = Shipped({**outputs}, f"{shipped.summary}\n{text}")
        keep(so_far)
        return so_far

    done = shipped
    if asked.workload:
        rolled = _roll_out(job, known)
        outputs |= {"deployed": rolled.done, "previous-image": rolled.before}
        done = told(f"`{rolled.target}` in `{rolled.target.namespace}`: {rolled.done} ({rolled.seconds:.0f} s)")
    if asked.command:
        _command(job, target)
        done = told("`deploy-command` ran")
    if asked.dispatch:
        _dispatch(job, known, asked.dispatch)
        done = told(f"`{asked.dispatch[0]}` got the event `{asked.dispatch[1]}`")
    if asked.bump:
        done = told(_bump(job, target, known, asked.bump))
    return done


def _image(outputs: Mapping[str, Any]) -> Reference:
    """The one image of the job."""
    if not outputs.get("digest"):
        raise errors.SettingsError(
            "This job has several images, and a workload has one: none was deployed.",
            fix="Deploy each model from a job of its own, with its digest out of the output `json`.",
        )
    return Reference.parse(f"{outputs['image']}@{outputs['digest']}")


def _known(job: Job, target: Reference) -> Facts:
    username, password = shipping.login(job)
    with requests.Session() as session:
        opened = opening.opener(
            session, target.host, username=username, password=password, env=job.env, log=commands.plain
        )
        return image.known(opened(target.host)[0], target, None, commands.plain)


def _roll_out(job: Job, known: Facts) -> Deployed:
    asked = job.inputs.deploy
    found = access.find(asked.connection, job.env)
    target = Workload.parse(str(asked.workload), asked.namespace or found.namespace or "default")
    said = ""

    def show(text: str, _share: float | None) -> None:
        nonlocal said
        if text != said:
            said = text
            commands.plain(text)

    with requests.Session() as session, cluster.opened(found, commands.plain) as client:
        order = Order(target, asked.container, asked.limits, asked.dry_run, wanted.who(job.env))
        return deploying.deploy(
            client, known, replace(order, checks=asked.checks(session), show=show, log=commands.plain)
        )


def _command(job: Job, target: Reference) -> None:
    asked = job.inputs.deploy
    with commands.foreign():
        hook.run(
            str(asked.command),
            target,
            timeout=asked.limits.timeout,
            cwd=job.workspace,
            env=job.env,
            say=commands.plain,
        )


def _dispatch(job: Job, known: Facts, to: tuple[str, str]) -> None:
    payload = {
        "image": known.image,
        "digest": known.digest,
        "commit": known.commit,
        "evidence": known.evidence,
        "outcome": known.outcome,
        "verdict": known.verdict,
        "run": job.run_url or "",
    }
    handover.dispatch(_client(job, "deploy-dispatch"), *to, payload)


def _bump(job: Job, target: Reference, known: Facts, asked: Bump) -> str:
    """Push the digest, or open a pull request with it. Returns what was done, in words."""
    digest = str(target.digest)
    branch = f"trt-action/{target.repository.rpartition('/')[2]}-{digest[7:19]}" if asked.pull_request else None
    message = gitops.message(target, commit=known.commit, link=job.run_url or "")
    client = _client(job, "deploy-bump-pull-request") if asked.pull_request else None
    if job.inputs.deploy.github_token is not None:  # Git gets to see it for GitHub's own address alone
        lent = credentials.for_git(job.inputs.deploy.github_token, job.env.get("GITHUB_SERVER_URL", ""), os.environ)
        os.environ.update(lent)
    done = gitops.bump(
        job.workspace / asked.file,
        Wish(target, asked.paths, asked.digests, asked.kustomize),
        base=asked.branch,
        branch=branch,
        message=message,
        log=commands.plain,
    )
    if not done.commit:
        return f"`{asked.file}` on `{done.branch}` is there already"
    if client is None:
        return f"`{asked.file}` on `{done.branch}`: commit {done.commit[:12]}"
    title, _, body = message.partition("\n")
    made = handover.pull_request(
        client, _repository(job, asked), head=done.branch, base=done.base, title=title, body=body.strip()
    )
    return f"{made.url} {'opened' if made.made else 'was open already'}"


def _repository(job: Job, asked: Bump) -> str:
    """Whose pull requests: those of the repository that the file is in."""
    found = git.find((job.workspace / asked.file).parent)
    remote = found.remote() if found else None
    url = found.read("remote", "get-url", remote) if found and remote else None
    return handover.repository_of(url or "") or job.repository


def _client(job: Job, why: str) -> Client:
    token = job.inputs.deploy.github_token or job.inputs.token
    if token is None:
        raise errors.SettingsError(
            f"{quote(why)} needs a token.", fix="Give `deploy-github-token` (or `github-token`, for this repository)."
        )
    return Client(requests.Session(), job.env.get("GITHUB_API_URL", ""), token, log=commands.plain)
