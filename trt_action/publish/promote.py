"""A release tag goes to the image that was measured for its commit: the same digest, nothing is built.

Images are found by their commit tags, `<sha>` and `<model>-<gpu>-<precision>-<sha>`; every one of them gets the release's
tags with the same words in front. Tags that move (`1.2`, `1`, `latest`) never go back behind a higher release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trt_action.errors import EvidenceError, GitError, VerificationError
from trt_action.evidence import Evidence
from trt_action.inputs import quote, quote_all
from trt_action.model import git, history
from trt_action.publish import artifacts, attest, labels, verify
from trt_action.publish.oci import Fetched
from trt_action.publish.registry import Registry
from trt_action.publish.signing import PublicKey
from trt_action.publish.tags import Version, release

MAX_ANCESTORS = 20
SHORT = 7


@dataclass(frozen=True)
class Candidate:
    """A commit whose files are those of the release; `why` says how it is related."""

    commit: str
    why: str


@dataclass(frozen=True)
class Image:
    """An image that was measured for a candidate. `scope` is what its tags have in front of the commit, `-` included."""

    scope: str
    tag: str
    manifest: Fetched = field(repr=False)
    candidate: Candidate

    @property
    def digest(self) -> str:
        return self.manifest.digest


@dataclass(frozen=True)
class Move:
    """One tag of the release. `before` is the digest that it had; None: it is new."""

    tag: str
    digest: str
    before: str | None

    @property
    def changes(self) -> bool:
        return self.before != self.digest


@dataclass(frozen=True)
class Promoted:
    """What was found, how it was checked, and which tags it has now."""

    version: str
    images: tuple[Image, ...]
    moves: tuple[Move, ...]
    notes: tuple[str, ...]


def candidates(cwd: Path, revision: str) -> list[Candidate]:
    """The commit that a revision names, then its parents (and theirs) as long as their files are the same: a merge that
    changed nothing was measured before it was made.

    Raises:
        GitError: there is no such revision, or no repository.
    """
    repository = git.find(cwd)
    if repository is None:
        raise GitError(
            "The release's commit cannot be read: this is no Git work tree.",
            fix="Run it in a checkout, or name the commit with `--commit`.",
        )
    try:
        commit = history.named(repository, revision)
    except GitError as error:
        raise GitError(
            f"The release's commit is not known: {quote(revision)} is no revision of this repository, nor of its remote.",
            why=error.why,
            fix="Correct the version, fetch the tags (`git fetch --tags`), or name the commit with `--commit`.",
        ) from None
    tree = repository.read("rev-parse", f"{commit}^{{tree}}")
    found = [Candidate(commit, f"{quote(revision)} is {commit[:12]}")]
    for one in found:
        for parent in history.parents(repository, one.commit):
            known = {other.commit for other in found}
            if parent not in known and len(found) < MAX_ANCESTORS and _tree(repository, parent) == tree:
                found.append(Candidate(parent, f"{parent[:12]} has the same files as {commit[:12]}"))
    return found


def promote(
    registry: Registry,
    repository: str,
    version: Version,
    commits: Sequence[Candidate],
    *,
    key: PublicKey | None,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Promoted:
    """Give the images of the first candidate that has any the release's tags; a rerun changes nothing.

    Args:
        key: every image must verify with it; None: the evidence is read, and nobody vouches for it.
        dry_run: look and check, move no tag.

    Raises:
        VerificationError: no image was measured for these commits, or one does not verify, or its run failed.
        RegistryError: the registry refused.
    """
    present = registry.tags(repository)
    images = _find(registry, repository, present, commits)
    notes = [_check(registry, repository, image, key) for image in images]
    planned = _plan(registry, repository, images, version, present)
    for move in planned:
        if move.changes and not dry_run:
            image = next(one for one in images if one.digest == move.digest)
            registry.put_manifest(repository, move.tag, image.manifest.body, image.manifest.media_type)
            progress(f"{move.tag} → {move.digest}")
    return Promoted(str(version), tuple(images), tuple(planned), tuple(dict.fromkeys(notes)))


def _tree(repository: git.Repository, commit: str) -> str | None:
    """None where the commit cannot be had: then its files are unknown."""
    try:
        return repository.read("rev-parse", f"{history.named(repository, commit)}^{{tree}}")
    except GitError:
        return None


def _find(registry: Registry, repository: str, present: Sequence[str], commits: Sequence[Candidate]) -> list[Image]:
    for candidate in commits:
        found: dict[str, Image] = {}
        for tag in present:
            scope = _scope(tag, candidate.commit)
            if scope is None:
                continue
            manifest = artifacts.resolve(registry, repository, tag)
            if not _is_of(registry, repository, manifest, candidate.commit):
                continue
            other = found.setdefault(scope, Image(scope, tag, manifest, candidate))
            if other.digest != manifest.digest:
                raise VerificationError(
                    f"{quote(other.tag)} and {quote(tag)} are different images of one commit.",
                    why="Which of them was meant to be released cannot be known.",
                    fix="Remove the wrong tag.",
                )
        if found:
            return [found[scope] for scope in sorted(found)]
    raise VerificationError(
        f"No image was measured for {quote_all([one.commit[:12] for one in commits])} in {quote(repository)}.",
        why=f"{len(present)} tags are there; none is one of these commits, or a merge changed the files after measuring.",
        fix="Let the default branch's run publish this commit first, then run the release again.",
    )


def _scope(tag: str, commit: str) -> str | None:
    """What a commit tag has in front of the commit; None of other tags."""
    for name in (commit, commit[:SHORT]):
        if tag == name or tag.endswith(f"-{name}"):
            return tag.removesuffix(name)
    return None


def _is_of(registry: Registry, repository: str, manifest: Fetched, commit: str) -> bool:
    """Whether the image says that it is of this commit; of an index, every image in it."""
    if manifest.is_index:
        children = [artifacts.resolve(registry, repository, one.digest) for one in manifest.listed("manifests")]
        return bool(children) and all(_is_of(registry, repository, one, commit) for one in children)
    return artifacts.labels(registry, repository, manifest).get(f"{labels.OCI}revision") == commit


def _check(registry: Registry, repository: str, image: Image, key: PublicKey | None) -> str:
    """Refuse what must not be released; say how it was checked."""
    if key is not None:
        for one in verify.verify(registry, repository, image.digest, key):
            _accept(verify.demand(one, image.tag), image)
        return f"Every image is signed by key {key.fingerprint}, and its engine is the one that was measured."
    digests = [image.digest]
    if image.manifest.is_index:
        digests = [one.digest for one in image.manifest.listed("manifests")]
    for digest in digests:
        _accept(_unsigned(registry, repository, digest, image), image)
    return "No key was given: that the image is what was measured was not checked."


def _unsigned(registry: Registry, repository: str, digest: str, image: Image) -> Evidence:
    for one in artifacts.read(registry, repository, digest, ("evidence",)):
        if one.content is not None:
            try:
                return attest.parsed(one.content)
            except EvidenceError:
                continue
    raise VerificationError(
        f"{quote(image.tag)} ({digest}) has no evidence attached.",
        why="It was not published by this tool, or its publishing was interrupted.",
        fix="Run the default branch's job of this commit again: it attaches what is missing.",
    )


def _accept(evidence: Evidence, image: Image) -> None:
    """The signed words about outcome and commit, not the labels, decide."""
    if evidence.outcome == "failed":
        raise VerificationError(
            f"The run that measured {quote(image.tag)} failed its gates.", fix="Release a commit that passes."
        )
    if evidence.source.dirty:
        raise VerificationError(
            f"{quote(image.tag)} was measured with uncommitted changes.", fix="Publish from a clean checkout."
        )
    if evidence.source.commit != image.candidate.commit:
        raise VerificationError(
            f"{quote(image.tag)} was measured for {quote(evidence.source.commit)}, not for {image.candidate.commit[:12]}.",
        )


def _plan(
    registry: Registry, repository: str, images: Sequence[Image], version: Version, present: Sequence[str]
) -> list[Move]:
    """The release's own tag first and `latest` last, for each image. A release's own tag never moves."""
    moves: list[Move] = []
    for image in images:
        others = [tag.removeprefix(image.scope) for tag in present if tag.startswith(image.scope)]
        for position, (name, _) in enumerate(release(version, others)):
            tag = image.scope + name
            before = registry.digest(repository, tag) if tag in present else None
            if position == 0 and before not in (None, image.digest):
                raise VerificationError(
                    f"The release {quote(tag)} exists, and is another image ({before}).",
                    why="A released version never changes: who pulled it before would have another one.",
                    fix="Release under a new version.",
                )
            moves.append(Move(tag, image.digest, before))
    return moves


def as_json(promoted: Promoted) -> Mapping[str, object]:
    """For other programs."""
    return {
        "version": promoted.version,
        "images": [
            {"tag": one.tag, "digest": one.digest, "commit": one.candidate.commit, "why": one.candidate.why}
            for one in promoted.images
        ],
        "tags": [
            {"tag": one.tag, "digest": one.digest, "before": one.before, "changes": one.changes}
            for one in promoted.moves
        ],
        "notes": list(promoted.notes),
    }
