"""Old images go; what is released, deployed or part of a kept index stays, with what is attached to it.

`plan` is pure: the same versions, policy and time give the same plan. Deletion goes from what points to what is pointed at
(indexes, attachments, lists of attachments, images), so that one that was interrupted leaves nothing that cannot be found
again: the next run makes the rest of the same plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal, Protocol

from trt_action.errors import SettingsError
from trt_action.inputs import quote
from trt_action.publish.tags import Version as Release

Kind = Literal["image", "index", "attachment", "list"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LIST_TAG = re.compile(r"sha256-([0-9a-f]{64})(\.(?:sig|att|sbom))?")
"""The list of attachments of a digest; with an ending, what cosign up to 2 attaches itself."""

BEING_PUBLISHED = timedelta(days=1)
"""Untagged images stay for so long: publishing tags last."""

DEFAULT_BRANCHES = ("main", "*-main", "master", "*-master")
"""The newest image of the default branch, alone or behind `<model>-<gpu>-<precision>-`: in a quiet repository it grows old,
and is still what people pull."""

_ORDER: Mapping[Kind, int] = {"index": 0, "attachment": 1, "list": 2, "image": 3}


@dataclass(frozen=True)
class Stored:
    """One manifest in a repository.

    Args:
        kind: `attachment` has a `subject`; `list` is an index of attachments under the tag `sha256-<hex>`.
        created: with time zone; None: unknown, and then age deletes nothing.
        children: what an index lists. `subject`: what an attachment or a list belongs to.
        handle: how the store itself calls it (GitHub's version id); empty: by its digest.
    """

    digest: str
    kind: Kind
    tags: tuple[str, ...] = ()
    created: datetime | None = None
    children: tuple[str, ...] = ()
    subject: str | None = None
    size: int = 0
    handle: str = ""


class Versions(Protocol):
    """A repository as `prune` sees it."""

    def stored(self) -> list[Stored]:
        """Everything that is there."""

    def delete(self, one: Stored) -> None:
        """Remove one manifest with its tags; one that is gone already is no failure."""


@dataclass(frozen=True)
class Policy:
    """What may go. Without `older_than`, `keep` or `untagged` nothing does.

    Args:
        older_than: only what is older goes. `keep`: the newest images that stay, whatever their age.
        pattern: only images all of whose tags match this shell pattern go; untagged ones only with `untagged`.
        untagged: images without a tag go too (those of `keep` and `older_than` stay).
        deployed: digests or tags that run somewhere.
        protected: what carries a tag that matches one of these shell patterns stays.
    """

    older_than: timedelta | None = None
    keep: int | None = None
    pattern: str = "*"
    untagged: bool = False
    deployed: frozenset[str] = frozenset()
    protected: tuple[str, ...] = DEFAULT_BRANCHES


@dataclass(frozen=True)
class Decision:
    """What becomes of one manifest, and why."""

    stored: Stored
    goes: bool
    why: str


def plan(stored: Iterable[Stored], policy: Policy, now: datetime) -> list[Decision]:
    """The fate of every manifest, what goes in the order of deletion and then what stays.

    Raises:
        SettingsError: the policy names nothing that may go.
    """
    if policy.older_than is None and policy.keep is None and not policy.untagged:
        raise SettingsError(
            "Nothing says what may go.", fix="Give `--older-than`, `--keep` or `--untagged` (and `--pattern`)."
        )
    everything = {one.digest: one for one in stored}
    roots = [one for one in everything.values() if one.kind in ("image", "index")]
    fate = _roots(roots, policy, now)
    others = [one for one in everything.values() if one.digest not in fate]
    followers = {one.digest: _follower(one, everything, fate, policy) for one in others}
    return sorted((fate | followers).values(), key=_sorted)


def _roots(roots: Sequence[Stored], policy: Policy, now: datetime) -> dict[str, Decision]:
    newest = _newest(roots, policy.keep or 0)
    fate = {one.digest: _own(one, policy, now, newest) for one in roots}
    for one in sorted(roots, key=lambda root: root.digest):
        if one.kind == "index" and not fate[one.digest].goes:
            why = f"part of the index {_name(one)}"
            for child in one.children:
                if child in fate and fate[child].goes:
                    fate[child] = Decision(fate[child].stored, False, why)
    return fate


def _own(one: Stored, policy: Policy, now: datetime, newest: frozenset[str]) -> Decision:
    """What the image's own tags, age and use say."""
    used = sorted({one.digest, *one.tags, *one.children} & policy.deployed)
    released = next((tag for tag in one.tags if is_release(tag)), None)
    if used:
        return Decision(one, False, f"deployed ({used[0][:19]})")
    if released:
        return Decision(one, False, f"released as {released}")
    if protected := next((tag for tag in one.tags for name in policy.protected if fnmatchcase(tag, name)), None):
        return Decision(one, False, f"protected as {protected}")
    if not one.tags and not policy.untagged:
        return Decision(one, False, "untagged (not asked for)")
    if not one.tags and one.created is not None and now - one.created < BEING_PUBLISHED:
        return Decision(one, False, "untagged, and so new that it may be being published")
    strange = next((tag for tag in one.tags if not fnmatchcase(tag, policy.pattern)), None)
    if strange:
        return Decision(one, False, f"its tag {strange} does not match {policy.pattern}")
    if one.digest in newest:
        return Decision(one, False, f"among the newest {policy.keep}")
    return _by_age(one, policy, now)


def _by_age(one: Stored, policy: Policy, now: datetime) -> Decision:
    """What is neither used nor among the newest: how old it is, if that matters."""
    if policy.older_than is None:
        if policy.keep is not None:
            return Decision(one, True, f"beyond the newest {policy.keep}")
        return Decision(one, not one.tags, "tagged (only untagged ones may go)" if one.tags else "untagged")
    if one.created is None:
        return Decision(one, False, "its age is unknown")
    age = now - one.created
    return Decision(one, age > policy.older_than, f"{_days(age)} old")


def _follower(one: Stored, everything: Mapping[str, Stored], fate: Mapping[str, Decision], policy: Policy) -> Decision:
    """Attachments go with what they are attached to."""
    if one.digest in policy.deployed or set(one.tags) & policy.deployed:
        return Decision(one, False, "deployed")
    if released := next((tag for tag in one.tags if is_release(tag)), None):
        return Decision(one, False, f"released as {released}")
    root = one.subject
    for _ in range(len(everything)):  # an attachment of an attachment; the bound is for circles
        above = everything.get(root or "")
        if above is None or above.kind in ("image", "index"):
            break
        root = above.subject
    decided = fate.get(root or "")
    if decided is None:
        return Decision(one, True, "what it was attached to is gone")
    return Decision(one, decided.goes, f"attached to {_name(decided.stored)}")


def _newest(roots: Sequence[Stored], keep: int) -> frozenset[str]:
    """The newest by time, and by digest where that is the same. What an index lists counts as one with it."""
    listed = {child for one in roots if one.kind == "index" for child in one.children}
    known = [one for one in roots if one.created is not None and one.tags and one.digest not in listed]
    ordered = sorted(known, key=lambda one: (one.created, one.digest), reverse=True)
    return frozenset(one.digest for one in ordered[:keep])


def is_release(tag: str) -> bool:
    """Whether a tag is a version or `latest`, alone or behind `<model>-<gpu>-<precision>-`. `1.2` and `1` count alone only:
    with words in front they could be anything (`pr-12`), and a release has its full version as well."""
    if re.fullmatch(r"v?\d{1,5}(\.\d{1,5})?", tag) or tag.rpartition("-")[2] == "latest":
        return True
    return any(Release.parse(tag[at:].replace("_", "+", 1)) for at in _starts(tag))


def _starts(tag: str) -> list[int]:
    """Where a version could begin: at the tag's start, and after each `-`."""
    return [0, *(match.end() for match in re.finditer("-", tag))]


def deployed(text: str) -> frozenset[str]:
    """Digests and tags of images in what `kubectl get … -o json` prints, or one image or digest a line.

    Raises:
        SettingsError: it is neither; nothing is deleted on a guess.
    """
    import json

    if not text.lstrip().startswith(("{", "[")):
        found = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return frozenset(name for line in found for name in _names(line))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise SettingsError("What is deployed cannot be read: it is no JSON.", fix=_KUBECTL) from None
    images = list(_images(data))
    if not isinstance(data, dict) or "kind" not in data or (not images and data.get("items") != []):
        raise SettingsError("What is deployed cannot be read: there is no image in it.", fix=_KUBECTL)
    return frozenset(name for image in images for name in _names(image))


def _images(data: object, depth: int = 0) -> Iterable[str]:
    """Every `image` and `imageID`, wherever it stands: pods, templates of workloads, lists of them."""
    if depth > 60:
        raise SettingsError("What is deployed cannot be read: it is nested too deeply.", fix=_KUBECTL)
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in ("image", "imageID") and isinstance(value, str):
                yield value
            else:
                yield from _images(value, depth + 1)
    elif isinstance(data, list):
        for value in data:
            yield from _images(value, depth + 1)


def _names(image: str) -> list[str]:
    """The digest of an image's name, else its tag. A name without both means `latest`."""
    if digests := _DIGEST.findall(image):
        return list(digests)
    last = image.rpartition("/")[2]
    tag = last.partition(":")[2]
    if not re.fullmatch(r"[\w.:-]+", last, re.ASCII):
        raise SettingsError(f"{quote(image)} is no image and no digest.", fix=_KUBECTL)
    return [tag or "latest"]


@dataclass
class Progress:
    """How far a pruning came."""

    deleted: list[Stored] = field(default_factory=list)


def prune(
    versions: Versions, decisions: Sequence[Decision], *, progress: Callable[[str], None] = lambda _: None
) -> Progress:
    """Delete what the plan says, in its order. What was deleted stays deleted if it is interrupted: run it again.

    Raises:
        RegistryError, GitHubError: the store refused; the words say how many were deleted before.
    """
    done = Progress()
    going = [one for one in decisions if one.goes]
    for number, decision in enumerate(going, start=1):
        versions.delete(decision.stored)
        done.deleted.append(decision.stored)
        progress(f"deleted {number} of {len(going)}: {_name(decision.stored)}")
    return done


def belongs_to(tag: str) -> tuple[Kind, str] | None:
    """What a tag `sha256-<hex>` (a list of attachments) or `sha256-<hex>.sig` (an attachment) belongs to; None of others."""
    match = _LIST_TAG.fullmatch(tag)
    return ("attachment" if match[2] else "list", f"sha256:{match[1]}") if match else None


def _sorted(decision: Decision) -> tuple[object, ...]:
    one = decision.stored
    created = one.created.timestamp() if one.created else 0.0
    return not decision.goes, _ORDER[one.kind], created, one.digest


def _name(one: Stored) -> str:
    """The tag that tells most: a release, else the first one."""
    return next((tag for tag in one.tags if is_release(tag)), one.tags[0] if one.tags else one.digest[:19])


def _days(age: timedelta) -> str:
    return f"{max(0, age.days)} days"


_KUBECTL = "Give it `kubectl get pods,deployments,replicasets --all-namespaces --output json`, or one digest a line."
