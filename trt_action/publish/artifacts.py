"""What is attached to an image, read back: everything here was written by whoever may write to the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trt_action.errors import RegistryError, VerificationError
from trt_action.publish import attest, oci, provenance, sbom, signing
from trt_action.publish.oci import Descriptor, Fetched
from trt_action.publish.registry import Registry

Kind = Literal["evidence", "sbom", "signed", "unsigned", "other"]

MAX_READ = 200
"""Artifacts whose content is read; an image has five of ours."""

_LIMITS: Mapping[str, tuple[Kind, int]] = {
    attest.EVIDENCE: ("evidence", 64_000_000),
    sbom.MEDIA_TYPE: ("sbom", sbom.MAX_BYTES),
    signing.BUNDLE: ("signed", signing.MAX_BUNDLE_BYTES),
    signing.STATEMENT: ("unsigned", signing.MAX_BUNDLE_BYTES),
}
NAMES = {
    provenance.PROVENANCE: "provenance",
    provenance.BENCHMARK: "benchmark",
    signing.IMAGE_SIGNATURE: "signature",
}
"""Predicate types by what people call them."""


@dataclass(frozen=True)
class Artifact:
    """One attached thing. `content` is None where it was not read; `note` says why."""

    kind: Kind
    descriptor: Descriptor
    content: bytes | None = field(default=None, repr=False)
    note: str = ""

    @property
    def digest(self) -> str:
        """Of the content, as statements name it."""
        return oci.sha256(self.content or b"")


def read(registry: Registry, repository: str, digest: str, kinds: Sequence[Kind] | None = None) -> list[Artifact]:
    """Everything attached to `digest`, of the given kinds or of all; other people's artifacts are listed, not read.

    Raises:
        RegistryError: the list cannot be read.
    """
    found = []
    for one in registry.referrers(repository, digest):
        kind, limit = _LIMITS.get(one.artifact_type or "", ("other", 0))
        if kinds is not None and kind not in kinds:
            continue
        if kind == "other":
            found.append(Artifact(kind, one))
        elif len(found) >= MAX_READ:
            found.append(Artifact(kind, one, note=f"not read: more than {MAX_READ} artifacts"))
        else:
            found.append(_read(registry, repository, one, kind, limit))
    return found


def _read(registry: Registry, repository: str, one: Descriptor, kind: Kind, limit: int) -> Artifact:
    try:
        return Artifact(kind, one, attest.content(registry, repository, one, limit=limit))
    except RegistryError as error:
        if error.status:  # the registry itself refuses: that is no property of the artifact
            raise
        return Artifact(kind, one, note=error.what)


def subjects(statement: Mapping[str, Any]) -> set[str]:
    """The digests that a statement is about."""
    found = set()
    listed = statement.get("subject")
    for one in listed if isinstance(listed, list) else []:
        digests = one.get("digest") if isinstance(one, Mapping) else None
        if isinstance(digests, Mapping):
            found |= {f"{algorithm}:{value}" for algorithm, value in digests.items()}
    return found


def labels(registry: Registry, repository: str, manifest: Fetched) -> dict[str, str]:
    """What an image says about itself: labels of its config, and annotations of its manifest where it has any.

    Raises:
        RegistryError: the config cannot be read.
    """
    data = manifest.json()
    annotations = oci.strings(data.get("annotations"))
    if manifest.is_index:
        return annotations
    return oci.strings(config(registry, repository, manifest).get("config", {}).get("Labels")) | annotations


def config(registry: Registry, repository: str, manifest: Fetched) -> dict[str, Any]:
    """The image's config.

    Raises:
        RegistryError: it cannot be read, or the manifest is of something else.
    """
    pointer = Descriptor.from_json(manifest.json().get("config"))
    data = oci.parse(registry.blob_bytes(repository, pointer.digest), f"The config {pointer.digest}")
    if not isinstance(data.get("config", {}), dict):
        raise RegistryError(f"The config {pointer.digest} is not one of an image.")
    return data


def resolve(registry: Registry, repository: str, reference: str) -> Fetched:
    """The manifest or index that a tag or digest names.

    Raises:
        VerificationError: there is none.
    """
    found = registry.manifest(repository, reference)
    if found is None:
        raise VerificationError(
            f"There is no image `{registry.host}/{repository}` with `{reference}`.",
            fix="Check the name; a private repository needs a login (`docker login`, or --username).",
        )
    return found
