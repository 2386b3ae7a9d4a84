"""What a job publishes or promotes, whoever's CI it runs in. Imported only by a job that may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from pydantic import SecretStr

from trt_action import errors
from trt_action.evidence import Evidence
from trt_action.publish import Options, Published, gates, opening, promote, publishing, tags, version, wanted
from trt_action.publish.reference import Reference
from trt_action.publish.version import Version
from trt_action.publish.wanted import Wanted
from trt_action.results import Shipped

if TYPE_CHECKING:
    from trt_action.publish.runtime import Open
    from trt_action.publish.signing import Signer


@dataclass(frozen=True)
class Order:
    """Where to, as whom, and what the tags need to know.

    Args:
        image: registry and name, without tag.
        asked: what was asked of publishing.
        login: name and password for the image's registry; None: what Docker's own config has.
        env: of the job.
        workspace: the checkout.
        facts: what tags need and evidence does not know (`branch`, `tag`, `pull_request`, `default_branch`).
        builder: the URI of who runs this.
        ca: certificates (PEM) that vouch for the image's registry beside the system's.
        log: told about progress.
    """

    image: str
    asked: Wanted
    login: tuple[str | None, SecretStr | None]
    env: Mapping[str, str]
    workspace: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    builder: str = Options.builder
    ca: Path | None = None
    log: Callable[[str], None] = lambda _: None


def publish(order: Order, evidences: Sequence[Evidence], kept: Sequence[Path]) -> Shipped:
    """Publish every model of the run; none if one of them may not be.

    Args:
        kept: the version folder of each evidence (`engine.kept`).

    Raises:
        NotPublishedError: a run is red, an image too large, …
        TrtActionError: as `publish.publish`; what was published before it is whole and stays.
    """
    if any(one.llm is not None for one in evidences):
        raise errors.NotPublishedError(
            "A served language model is not published: its server is there already, and this run built nothing.",
            fix="Leave `registry` and `image` out of the job that judges an endpoint, or set `activity: measure`.",
        )
    engines = [version.read(folder) for folder in kept]
    if len(engines) < len(evidences):
        raise errors.NotPublishedError("Nothing is published: not every model of this run has an engine.")
    return publish_engines(order, engines)


def publish_engines(order: Order, engines: Sequence[Version]) -> Shipped:
    """Publish measured engines; none if one of them may not be.

    Raises:
        NotPublishedError, TrtActionError: as `publish`.
    """
    for engine in engines:
        gates.check(engine.evidence)
    asked = order.asked
    rules = asked.rules or tags.rules(_RULES_OF_SEVERAL if len(engines) > 1 else ())
    _check_apart(engines, rules, order.facts)
    target = Reference.parse(order.image)
    with requests.Session() as session:
        open_registry = _opener(order, session, target)
        options = Options(
            image=target,
            rules=rules,
            facts=order.facts,
            labels=asked.labels,
            variant=asked.variant,
            mode=asked.mode,
            base=asked.base,
            dockerfile=order.workspace / asked.dockerfile if asked.dockerfile else None,
            max_size=asked.max_size,
            scan=wanted.scan_of(asked, order.workspace),
            signer=_signer(order, session),
            builder=order.builder,
            index=asked.index,
            checkout=order.workspace,
        )
        done = [publishing.publish(engine, options, open_registry, log=order.log) for engine in engines]
    return Shipped(_outputs(done), _summary(done))


_RULES_OF_SEVERAL = tuple(f"{rule},variant=only" for rule in tags.DEFAULT_RULES)
"""Several models share a name in the registry: only tags with the model's name in front tell them apart."""


def release(order: Order, tag: str, commit: str) -> Shipped | None:
    """Give the image that was measured for the release's commit its tags; None: the tag is no version.

    Raises:
        SettingsError: the image's name or a login is malformed.
        VerificationError, RegistryError, GitError: see `publish.promote`.
    """
    named = tags.Version.parse(tag)
    if named is None:
        return None
    target = Reference.parse(order.image)
    with requests.Session() as session:
        registry, _ = _opener(order, session, target)(target.host)
        done = promote.promote(
            registry,
            target.repository,
            named,
            promote.candidates(order.workspace, commit),
            key=getattr(_signer(order, session), "public", None),
            progress=order.log,
        )
    for note in done.notes:
        order.log(note)
    names = [f"{target.name}:{move.tag}" for move in done.moves]
    digests = list(dict.fromkeys(one.digest for one in done.images))
    single = digests[0] if len(digests) == 1 else None
    lines = "\n".join(f"- `{name}`" for name in names)
    return Shipped(
        outputs={"image": target.name, "digest": single, "tags": "\n".join(names)},
        summary=f"### Promoted {named}\n\n`{target.name}` at {', '.join(f'`{one}`' for one in digests)}\n\n{lines}\n",
    )


def trend(order: Order, ref: str) -> str:
    """The trends of three or more runs of what was published from `ref` so far, as Markdown; empty if there is none, or
    where it cannot be read: it decides about nothing."""
    from trt_action import history

    target = Reference.parse(order.image)
    try:
        with requests.Session() as session:
            registry, _ = _opener(order, session, target)(target.host)
            found = history.of_registry(registry, target.repository, limit=TREND, log=order.log)
    except errors.TrtActionError as error:
        order.log(f"No trend: {error.what}")
        return ""
    trends = history.series(one for one in found.points if one.ref == ref)
    shown = [one for one in trends if len(one.points) >= history.LEAST]
    return history.markdown(shown, found.notes) if shown else ""


TREND = 60
"""Images that the trend in a summary is made of, the newest."""


def not_a_version(tag: str) -> str:
    """What a person reads whose tag is none."""
    return f"Nothing is promoted: the tag `{tag[:200]}` is no version such as `v1.2.3`."


def _check_apart(engines: Sequence[Version], rules: Sequence[tags.Rule], facts: Mapping[str, Any]) -> None:
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


def _opener(order: Order, session: requests.Session, target: Reference) -> Open:
    username, password = order.login
    return opening.opener(
        session, target.host, username=username, password=password, env=order.env, ca=order.ca, log=order.log
    )


def _signer(order: Order, session: requests.Session) -> Signer | None:
    return wanted.signer(order.asked, session, order.env)


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
