"""The order of publishing: a tag is the last thing that is written, so that no tag ever points to half an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from trt_action import files
from trt_action.errors import RegistryError, SettingsError
from trt_action.evidence import Evidence
from trt_action.publish import (
    artifacts,
    attest,
    bill,
    direct,
    gates,
    image,
    labels,
    oci,
    runtime,
    scan,
    select,
    tagging,
    tags,
    tools,
    variants,
)
from trt_action.publish.direct import Pushed
from trt_action.publish.oci import Fetched
from trt_action.publish.provenance import Origin
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.runtime import Asked, Mode, Open
from trt_action.publish.signing import Signer
from trt_action.publish.version import Version

Log = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is asked. `image`: registry and name. `facts`: what tags need and evidence does not know (`branch`, `tag`,
    `pull_request`, `default_branch`). `max_size` in bytes, as pulled. `builder`: the URI of who runs this. `index`: tags
    without `<model>-<gpu>-<precision>-` are those of an index over the images of all GPUs. `checkout`: a work tree that may
    know which of two commits is older."""

    image: Reference
    rules: Sequence[tags.Rule] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    variant: str = "auto"
    mode: Mode = "auto"
    base: Reference | None = None
    dockerfile: Path | None = None
    max_size: int | None = None
    scan: scan.Asked | None = None
    signer: Signer | None = None
    builder: str = Origin().builder
    index: bool = False
    checkout: Path | None = None


@dataclass(frozen=True)
class Published:
    """An image that is there, whole and tagged. `sent`: bytes that had to be uploaded. `left`: tags that it was not given,
    since a newer run has them."""

    image: str
    digest: str
    tags: list[str]
    labels: dict[str, str]
    size: int
    sent: int
    left: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As docker/metadata-action and docker/build-push-action tell it: tags with the image's name in front."""
        names = [f"{self.image}:{tag}" for tag in self.tags]
        return {
            "image": self.image,
            "digest": self.digest,
            "tags": names,
            "tag-names": self.tags,
            "left-tags": self.left,
            "labels": self.labels,
            "annotations": [f"manifest:{name}={value}" for name, value in self.labels.items()],
            "size": self.size,
        }


def publish(engine: Version, options: Options, open_registry: Open, *, log: Log = lambda _: None) -> Published:
    """Publish a measured engine. The same engine again gives the same digest, and goes on where a break has left it.

    Raises:
        NotPublishedError: the run is red, the image too large, or a scan found what is forbidden. Nothing is pushed.
        SettingsError, EvidenceError: what is asked contradicts itself or the engine.
        RegistryError, BuildError, BackendUnavailableError, StorageError, ScanError: something on the way failed; no
            tag points to the image.
    """
    gates.check(engine.evidence)
    target, evidence = options.image, engine.evidence
    registry, _ = open_registry(target.host)
    variant = variants.choose(options.variant, engine.record.engine, engine.record.options)
    names = _names(engine, options, registry)
    with files.work_folder() as work:
        made = runtime.obtain(variant, engine.record.engine, _asked(options, log), target, open_registry)
        if options.scan is not None:
            scan.gate(made.target, options.scan, today=today(), env=tools.login(target, open_registry), log=log)
        base = made.in_registry()
        change = image.change(engine, variant, base, work, options.labels)
        size = image.size(base, change, registry, target.repository, _moving(names.all, evidence))
        log(f"Image: {size}.")
        image.check_size(size, options.max_size)
        packages = bill.packages(base, open_registry, log=log)
        pushed = direct.push(base, registry, target.repository, change)
        tagging.check_releases(registry, target.repository, names.all, pushed.digest, names.scopes)
        log(f"Pushed {target.at(pushed.digest)} ({image.megabytes(pushed.sent)} sent).")
        attest.attach_all(
            registry,
            target,
            pushed.manifest,
            evidence=engine.raw,
            bill=bill.document(evidence, target, pushed.digest, packages),
            origin=Origin(options.builder, base.reference.at(base.manifest.digest)),
            signer=options.signer,
            progress=log,
        )
        given = _tag(registry, target.repository, names, pushed, engine, options, log)
    left = [name for name in names.all if name not in given]
    return Published(target.name, pushed.digest, given, dict(change.labels), pushed.size, pushed.sent, left)


def today() -> date:
    """In UTC: exceptions of the scan expire by it."""
    return datetime.now(UTC).date()


def _asked(options: Options, log: Log) -> Asked:
    return Asked(options.mode, options.base, options.dockerfile, log)


@dataclass(frozen=True)
class _Names:
    """`own`: the image's. `index`: those of the index over the images of all GPUs, the commit's first; none without it."""

    own: list[str]
    index: list[str]
    scopes: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        return self.own + self.index


def _names(engine: Version, options: Options, registry: Registry) -> _Names:
    """The tags, decided before anything is pushed: one that cannot be given should cost no upload.

    Raises:
        SettingsError: as `tags.make`; or an index is asked, and no commit is known that could be its name.
    """
    facts = labels.facts(engine.evidence, **options.facts)
    made = tags.make(options.rules or tags.rules(()), facts, existing(registry, options.image.repository))
    scopes = (f"{facts.variant}-",)
    if not options.index:
        return _Names(made, [], scopes)
    if not facts.commit:
        raise SettingsError(
            "An index over the images of several GPUs is named after the commit, and none is known.",
            fix="Run it in a checkout, or leave `index` out.",
        )
    own = [name for name in made if name.startswith(scopes)]
    bare = [name for name in made if not name.startswith(scopes)]
    return _Names(
        list(dict.fromkeys([scopes[0] + facts.commit, *own])), list(dict.fromkeys([facts.commit, *bare])), scopes
    )


def _tag(
    registry: Registry, repository: str, names: _Names, pushed: Pushed, engine: Version, options: Options, log: Log
) -> list[str]:
    """The last step: the image's own tags, then the index and its other names. Returns the tags that are set."""
    image = Fetched(pushed.body, oci.MANIFEST, pushed.digest)
    given = tagging.put(registry, repository, names.own, image, scopes=names.scopes, checkout=options.checkout, log=log)
    if not names.index:
        return given
    commit, *others = names.index
    while True:  # another leg of the matrix may write the index meanwhile: the last one to look has everybody's
        digest = select.publish_index(registry, repository, commit)
        index = artifacts.resolve(registry, repository, digest)
        set_ = tagging.put(registry, repository, others, index, scopes=names.scopes, checkout=options.checkout, log=log)
        if registry.digest(repository, commit) == digest:
            images = len(select.entries(index))
            log(f"The index {commit} lists {images} image{'s' if images != 1 else ''}.")
            return [*given, commit, *set_]


def facts_of(ref: str | None) -> dict[str, str]:
    """What a Git ref says about tags: `refs/heads/main` → its branch, `refs/tags/v1` → its tag."""
    for kind, front in (("branch", "refs/heads/"), ("tag", "refs/tags/")):
        if ref and ref.startswith(front):
            return {kind: ref.removeprefix(front)}
    return {"branch": ref} if ref and not ref.startswith("refs/") and ref != "HEAD" else {}


def _moving(names: Sequence[str], evidence: Evidence) -> list[str]:
    """Those that pointed to another image before: not the commit's own."""
    commit = evidence.source.commit or "-"
    return [name for name in names if commit not in name]


def existing(registry: Registry, repository: str) -> list[str]:
    """The tags that are there; none where the repository does not exist yet."""
    try:
        return registry.tags(repository)
    except RegistryError as error:
        if error.status == 404:
            return []
        raise
