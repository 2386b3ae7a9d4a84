"""What a job publishes or promotes, and what it tells about it. Imported only by a job that may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from trt_action import errors
from trt_action.evidence import Evidence
from trt_action.github import commands
from trt_action.job import Job, read_payload
from trt_action.publish import Options, Published, gates, opening, promote, publishing, tags, version, wanted
from trt_action.publish.reference import Reference
from trt_action.results import Shipped

if TYPE_CHECKING:
    from trt_action.publish.runtime import Open
    from trt_action.publish.signing import Signer

GITHUB_REGISTRY = "ghcr.io"
"""Where the job's own token is a login, if the workflow gives it `packages: write`."""


def ship(job: Job, evidences: Sequence[Evidence], kept: Sequence[Path]) -> Shipped:
    """Publish every model of the run; none if one of them may not be.

    Args:
        kept: the version folder of each evidence (`engine.kept`).

    Raises:
        NotPublishedError: a run is red, an image too large, …
        TrtActionError: as `publish.publish`; what was published before it is whole and stays.
    """
    if job.inputs.image is None and job.inputs.registry is None:
        commands.plain("Nothing is published: neither `registry` nor `image` says where.")
        return Shipped()
    engines = [version.read(folder) for folder in kept]
    if len(engines) < len(evidences):
        raise errors.NotPublishedError("Nothing is published: not every model of this run has an engine.")
    for engine in engines:
        gates.check(engine.evidence)
    asked = job.inputs.publish
    rules = asked.rules or tags.rules(_RULES_OF_SEVERAL if len(engines) > 1 else ())
    _check_apart(engines, rules, _facts(job))
    target = Reference.parse(job.image)
    with requests.Session() as session:
        open_registry = _opener(job, session, target)
        options = Options(
            image=target,
            rules=rules,
            facts=_facts(job),
            labels=asked.labels,
            variant=asked.variant,
            mode=asked.mode,
            base=asked.base,
            dockerfile=job.workspace / asked.dockerfile if asked.dockerfile else None,
            max_size=asked.max_size,
            scan=wanted.scan_of(asked, job.workspace),
            signer=_signer(job, session),
            builder=_builder(job),
        )
        done = [publishing.publish(engine, options, open_registry, log=commands.plain) for engine in engines]
    return Shipped(_outputs(done), _summary(done))


_RULES_OF_SEVERAL = tuple(f"{rule},variant=only" for rule in tags.DEFAULT_RULES)
"""Several models share a name in the registry: only tags with the model's name in front tell them apart."""


def release(job: Job) -> Shipped:
    """Give the image that was measured for the release's commit its tags.

    Raises:
        SettingsError: the image's name or a login is malformed.
        VerificationError, RegistryError, GitError: see `publish.promote`.
    """
    if job.inputs.image is None and job.inputs.registry is None:
        commands.plain("Nothing is promoted: neither `registry` nor `image` says where.")
        return Shipped()
    named = tags.Version.parse(job.activity.tag or "")
    if named is None:
        text = f"Nothing is promoted: the tag `{(job.activity.tag or '')[:200]}` is no version such as `v1.2.3`."
        commands.Annotations().add("warning", text, title="Not promoted")
        return Shipped()
    target = Reference.parse(job.image)
    with requests.Session() as session:
        registry, _ = _opener(job, session, target)(target.host)
        signer = _signer(job, session)
        done = promote.promote(
            registry,
            target.repository,
            named,
            promote.candidates(job.workspace, job.activity.commit or "HEAD"),
            key=getattr(signer, "public", None),
            progress=commands.plain,
        )
    for note in done.notes:
        commands.plain(note)
    names = [f"{target.name}:{move.tag}" for move in done.moves]
    digests = list(dict.fromkeys(one.digest for one in done.images))
    single = digests[0] if len(digests) == 1 else None
    lines = "\n".join(f"- `{name}`" for name in names)
    return Shipped(
        outputs={"image": target.name, "digest": single, "tags": "\n".join(names)},
        summary=f"### Promoted {named}\n\n`{target.name}` at {', '.join(f'`{one}`' for one in digests)}\n\n{lines}\n",
    )


def _facts(job: Job) -> dict[str, Any]:
    activity = job.activity
    default = (read_payload(job.env).get("repository") or {}).get("default_branch")
    found: dict[str, Any] = dict(publishing.facts_of(activity.ref))
    if activity.pull_request:
        found = {"pull_request": activity.pull_request.number}
    return {**found, "default_branch": bool(default) and found.get("branch") == default}


def _check_apart(engines: Sequence[version.Version], rules: Sequence[tags.Rule], facts: Mapping[str, Any]) -> None:
    """Refuse rules that give two models of one run the same tag, before anything is pushed."""
    from trt_action.publish import labels

    seen: dict[str, str] = {}
    for engine in engines:
        name = labels.model_name(engine.evidence)
        for tag in tags.make(rules, labels.facts(engine.evidence, **facts)):
            if seen.setdefault(tag, name) != name:
                raise errors.SettingsError(
                    f"The models `{seen[tag]}` and `{name}` would both get the tag `{tag}`.",
                    fix="Add `variant=only` to the rules in `tags`, or publish each model from a job of its own.",
                )


def _opener(job: Job, session: requests.Session, target: Reference) -> Open:
    username, password = job.inputs.publish.username, job.inputs.publish.password
    if target.host == GITHUB_REGISTRY and not username and not password and job.inputs.token is not None:
        username, password = job.env.get("GITHUB_ACTOR") or "token", job.inputs.token
    return opening.opener(session, target.host, username=username, password=password, env=job.env, log=commands.plain)


def _signer(job: Job, session: requests.Session) -> Signer | None:
    return wanted.signer(job.inputs.publish, session, job.env)


def _builder(job: Job) -> str:
    server, workflow = job.env.get("GITHUB_SERVER_URL"), job.env.get("GITHUB_WORKFLOW_REF")
    return f"{server}/{workflow}" if server and workflow else Options.builder


def _outputs(done: Sequence[Published]) -> dict[str, Any]:
    """As docker/metadata-action's users expect; of several images the digest is in `json` only."""
    records = [one.as_json() for one in done]
    single = records[0] if len(records) == 1 else None
    return {
        "image": done[0].image if done else None,
        "digest": single["digest"] if single else None,
        "tags": "\n".join(name for record in records for name in record["tags"]) or None,
        "labels": "\n".join(f"{key}={value}" for key, value in single["labels"].items()) if single else None,
        "images": records,
    }


def _summary(done: Sequence[Published]) -> str:
    rows = []
    for one in done:
        rows += [f"### Published `{one.image}`", "", f"`{one.image}@{one.digest}`, {one.size / 1e6:.1f} MB", ""]
        rows += [f"- `{one.image}:{tag}`" for tag in one.tags]
    return "\n".join([*rows, ""]) if rows else ""
