"""What a registry holds of a repository, for `prune`: everything that can be reached from its tags."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from trt_action.errors import RegistryError
from trt_action.publish import artifacts, oci
from trt_action.publish.attest import CREATED
from trt_action.publish.oci import Fetched
from trt_action.publish.prune import Kind, Stored, belongs_to
from trt_action.publish.registry import Registry


class RegistryVersions:
    """A repository of any OCI registry. Untagged images are seen where an index lists them: registries list only tags."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry, self._repository = registry, repository

    def stored(self) -> list[Stored]:
        """Tags, then what their indexes list, then what is attached to all of it."""
        tags: dict[str, list[str]] = {}
        for tag in self._registry.tags(self._repository):
            if (digest := self._registry.digest(self._repository, tag)) is not None:
                tags.setdefault(digest, []).append(tag)
        return describe(
            self._registry, self._repository, {digest: tuple(sorted(found)) for digest, found in tags.items()}
        )

    def delete(self, one: Stored) -> None:
        """By digest: its tags go with it.

        Raises:
            RegistryError: refused; many registries must be told first that they may delete.
        """
        try:
            self._registry.delete(self._repository, one.digest)
        except RegistryError as error:
            if error.status == 405:
                error.fix = "Allow deletion in the registry (CNCF registry: `REGISTRY_STORAGE_DELETE_ENABLED=true`)."
            raise


def describe(
    registry: Registry, repository: str, tags: dict[str, tuple[str, ...]], *, reach: bool = True
) -> list[Stored]:
    """What these digests are. With `reach` also what they list and what is attached to them.

    Raises:
        RegistryError: a manifest cannot be read.
    """
    found: dict[str, Stored] = {}
    waiting = sorted(tags)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        manifest = registry.manifest(repository, digest)
        if manifest is None:
            continue  # deleted meanwhile, or listed by an index that outlived it
        one = _stored(registry, repository, manifest, tags.get(digest, ()))
        found[digest] = one
        if reach:
            waiting += [child for child in one.children if child not in found]
            if one.kind in ("image", "index"):
                attached = (each.digest for each in registry.referrers(repository, digest))
                waiting += [each for each in attached if each not in found]
    return sorted(found.values(), key=lambda one: one.digest)


def _stored(registry: Registry, repository: str, manifest: Fetched, tags: tuple[str, ...]) -> Stored:
    data = manifest.json()
    subject = data.get("subject")
    children = tuple(one.digest for one in manifest.listed("manifests")) if manifest.is_index else ()
    layers = () if manifest.is_index else tuple(manifest.listed("layers"))
    kind: Kind = "index" if manifest.is_index else "image"
    belongs = None
    if isinstance(subject, dict) and isinstance(subject.get("digest"), str):
        kind, belongs = "attachment", subject["digest"]
    elif len(tags) == 1 and (named := belongs_to(tags[0])) is not None:
        kind, belongs = named
    created = None if kind in ("attachment", "list") else _created(registry, repository, manifest, data)
    size = sum(layer.size for layer in layers)
    return Stored(manifest.digest, kind, tags, created, children, belongs, size)


def _created(registry: Registry, repository: str, manifest: Fetched, data: dict[str, Any]) -> datetime | None:
    """When it was made: its own annotation, or its config's; of an index the newest of what it lists."""
    said = oci.strings(data.get("annotations")).get(CREATED)
    if said is None and not manifest.is_index:
        try:
            said = str(artifacts.config(registry, repository, manifest).get("created", ""))
        except RegistryError as error:
            if error.status:
                raise
            said = ""  # an artifact that is no image
    if said is None:
        times: Iterable[datetime | None] = (
            _created(registry, repository, child, child.json())
            for one in manifest.listed("manifests")
            if (child := registry.manifest(repository, one.digest)) is not None and not child.is_index
        )
        return max((time for time in times if time is not None), default=None)
    return time_of(said)


def time_of(text: str) -> datetime | None:
    """RFC 3339, with nanoseconds as Docker writes them; None of anything else."""
    try:
        found = datetime.fromisoformat(text.strip()[:40])
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
