"""What is attached to a manifest, for registries with the referrers API and for those without.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers and
…#referrers-tag-schema: an index under the tag `<algorithm>-<hex>`, kept by the clients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trt_action import http
from trt_action.errors import RegistryError
from trt_action.inputs import quote
from trt_action.publish import oci
from trt_action.publish.oci import Descriptor, Fetched

if TYPE_CHECKING:
    from trt_action.publish.registry import Registry
    from trt_action.publish.transport import Answer

SHORTEST_LOOK, LONGEST_LOOK = 0.05, 2.0
"""Seconds until it is looked whether another writer has overwritten ours."""

MERGES = 20


def fallback_tag(digest: str) -> str:
    """Where clients keep the list for a registry without the API."""
    return digest.replace(":", "-", 1)[:128]


def listed(registry: Registry, repository: str, digest: str, pages: Iterable[Answer]) -> list[Descriptor]:
    """The descriptors of an answered API, else of the tag.

    Raises:
        RegistryError: what is there is no index.
    """
    found: list[Descriptor] = []
    for page in pages:
        if page.status != 200:
            return _read(registry.manifest(repository, fallback_tag(digest)))
        found += _read(Fetched(page.content, oci.INDEX, digest))
    return found


def record(registry: Registry, repository: str, subject: str, attached: Descriptor, patience: http.Patience) -> None:
    """Put `attached` into the list under the tag. A registry knows no "only if unchanged": so the list is read just
    before it is written, and looked at again a little later, for another writer who had read it before us.

    Raises:
        RegistryError: others overwrite it again and again.
    """
    tag = fallback_tag(subject)
    for attempt in range(MERGES):
        begun = patience.clock()
        present = _read(registry.manifest(repository, tag))
        if attached.digest in {one.digest for one in present}:
            return
        registry.put_manifest(repository, tag, oci.index([*present, attached]), oci.INDEX)
        look = min(LONGEST_LOOK, max(SHORTEST_LOOK, 2 * (patience.clock() - begun)))
        patience.sleep(look * (1 + attempt * patience.jitter()))
    raise RegistryError(
        f"{quote(attached.digest)} could not be attached in {quote(repository)}: others overwrite the list {tag}.",
        fix="Run it again; publish one image from one job at a time.",
    )


def _read(index: Fetched | None) -> list[Descriptor]:
    """An empty list where there is nothing; each digest once."""
    if index is None:
        return []
    if not index.is_index:
        raise RegistryError(f"The list of attachments {index.digest} is no index.")
    return list({one.digest: one for one in index.listed("manifests")}.values())
