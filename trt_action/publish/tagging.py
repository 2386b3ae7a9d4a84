"""Tags are the last thing that is written: which ones move to an image, and which ones stay where they are.

Jobs of two commits may end in the wrong order. A tag that moves (a branch's) never goes back to what an older run has
measured; a release's own tag never moves at all. There is no "write only if unchanged" in the protocol: what is read right
before writing can be old by a moment, which a `concurrency` group of the workflow rules out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trt_action.errors import NotPublishedError, RegistryError
from trt_action.inputs import quote
from trt_action.model import git
from trt_action.publish import artifacts, labels
from trt_action.publish.oci import Fetched
from trt_action.publish.registry import Registry
from trt_action.publish.tags import Version

_RUN = re.compile(r"(https?://\S+/(?:runs|pipelines|jobs)/)(\d{1,18})(?:/attempts/\d+)?", re.ASCII)
"""Addresses of runs as GitHub and GitLab write them: numbers grow in the order in which the events came, and stay when a
run is repeated."""


def put(
    registry: Registry,
    repository: str,
    names: Sequence[str],
    image: Fetched,
    *,
    scopes: Sequence[str],
    checkout: Path | None,
    log: Callable[[str], None],
) -> list[str]:
    """Give an image its tags. Returns those that it has now; a tag that a newer run has keeps what it has.

    Args:
        scopes: what may stand in front of a version in a tag, such as `digits-cpu-int8-`, beside nothing.
        checkout: a work tree that may know which of two commits is older.

    Raises:
        NotPublishedError: a release's tag is another image. Tags before it are set.
        RegistryError: the registry refused.
    """
    ours = artifacts.labels(registry, repository, image)
    given = []
    for name in names:
        present = registry.manifest(repository, name)
        if present is None or present.digest != image.digest:
            if present is not None and _is_release(name, scopes):
                raise _released(name, present.digest)
            if present is not None and _newer(_said(registry, repository, present), ours, checkout):
                log(f"{quote(name)} stays: it is of a newer run than this one ({present.digest}).")
                continue
            registry.put_manifest(repository, name, image.body, image.media_type)
            log(f"Tagged {registry.host}/{repository}:{name}.")
        given.append(name)
    return given


def check_releases(
    registry: Registry, repository: str, names: Sequence[str], digest: str, scopes: Sequence[str]
) -> None:
    """Refuse before the first tag what `put` would refuse at one of them.

    Raises:
        NotPublishedError: a release's tag is another image.
    """
    for name in names:
        present = registry.digest(repository, name) if _is_release(name, scopes) else None
        if present not in (None, digest):
            raise _released(name, str(present))


def _is_release(name: str, scopes: Sequence[str]) -> bool:
    """`1.2.3`, alone or behind one of `scopes`; `1.2`, `1` and `latest` move."""
    return any(Version.parse(name.removeprefix(scope).replace("_", "+", 1)) for scope in ("", *scopes))


def _released(name: str, present: str) -> NotPublishedError:
    return NotPublishedError(
        f"The release {quote(name)} exists, and is another image ({present}).",
        why="A released version never changes: who pulled it before would have another one.",
        fix="Release under a new version. To give a measured image a release's tags use `trt-action promote`.",
    )


def _said(registry: Registry, repository: str, present: Fetched) -> dict[str, str]:
    """What the image says that has the tag; nothing of one that cannot be read."""
    try:
        return artifacts.labels(registry, repository, present)
    except RegistryError as error:
        if error.status not in (None, 404):
            raise
        return {}


def _newer(theirs: Mapping[str, str], ours: Mapping[str, str], checkout: Path | None) -> bool:
    """Whether they are of a newer run: by the numbers of runs of one project, else by Git. The time says nothing: an
    older commit's job may measure later."""
    revision = f"{labels.OCI}revision"
    if theirs.get(revision) == ours.get(revision):
        return False
    their_run, our_run = (_RUN.fullmatch(said.get(f"{labels.OCI}url", "")) for said in (theirs, ours))
    if their_run and our_run and their_run[1] == our_run[1]:
        return int(their_run[2]) > int(our_run[2])
    return _descends(checkout, theirs.get(revision, ""), ours.get(revision, ""))


def _descends(checkout: Path | None, theirs: str, ours: str) -> bool:
    repository = git.find(checkout) if checkout is not None else None
    if repository is None or not all(re.fullmatch(r"[0-9a-f]{40,64}", one) for one in (theirs, ours)):
        return False
    return repository.run("merge-base", "--is-ancestor", ours, theirs).ok
