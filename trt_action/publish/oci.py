"""What a registry stores: descriptors, manifests and indexes, as plain data and as bytes.

OCI image specification v1.1 (https://github.com/opencontainers/image-spec) and Docker's image manifest v2, schema 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trt_action.errors import RegistryError
from trt_action.inputs import quote
from trt_action.publish.reference import is_digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
INDEXES = (INDEX, DOCKER_INDEX)
ACCEPT = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
"""Without it a registry answers with the long dead schema 1."""

MAX_MANIFEST_BYTES = 4_194_304
"""The limit that the distribution specification asks registries to keep at least."""

MAX_LISTED = 10_000
"""Layers or manifests that one document may list."""


@dataclass(frozen=True)
class Descriptor:
    """A pointer to content by its hash. `size` in bytes; `platform` as `os`, `architecture`, …, of an index's entry."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    platform: Mapping[str, Any] | None = None
    urls: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        data: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform:
            data["platform"] = dict(self.platform)
        if self.annotations:
            data["annotations"] = dict(self.annotations)
        if self.artifact_type:
            data["artifactType"] = self.artifact_type
        if self.urls:
            data["urls"] = list(self.urls)
        return data

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read one out of a manifest.

        Raises:
            RegistryError: it is none.
        """
        if not isinstance(data, Mapping):
            raise RegistryError("A manifest holds something that is no descriptor.")
        media_type, digest, size = data.get("mediaType", ""), data.get("digest"), data.get("size")
        if not isinstance(digest, str) or not is_digest(digest):
            raise RegistryError(f"A manifest names {quote(digest)}, which is no digest.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise RegistryError(f"A manifest gives the size of {digest} as {quote(size)}.")
        platform, urls = data.get("platform"), data.get("urls")
        return cls(
            media_type if isinstance(media_type, str) else "",
            digest,
            size,
            strings(data.get("annotations")),
            data.get("artifactType") if isinstance(data.get("artifactType"), str) else None,
            dict(platform) if isinstance(platform, Mapping) else None,
            tuple(url for url in urls if isinstance(url, str)) if isinstance(urls, list) else (),
        )


@dataclass(frozen=True)
class Blob:
    """Content to be uploaded: a file (`path`) or a few bytes (`data`). `diff_id` is the hash of a layer's plain tar."""

    digest: str
    size: int
    media_type: str
    path: Path | None = None
    data: bytes = field(default=b"", repr=False)
    diff_id: str | None = None

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Self:
        """A small one, from memory."""
        return cls(sha256(data), len(data), media_type, data=data)

    @classmethod
    def of_file(cls, path: Path, media_type: str) -> Self:
        """Any file as it is; read once for its hash.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(f"sha256:{digest}", path.stat().st_size, media_type, path)

    def descriptor(self, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """The pointer to it."""
        return Descriptor(self.media_type, self.digest, self.size, annotations or {})


EMPTY_BLOB = Blob("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", 2, EMPTY, data=b"{}")
"""The config of an artifact that has none."""


@dataclass(frozen=True)
class Fetched:
    """A manifest or an index as a registry gave it, its bytes checked against `digest`."""

    body: bytes = field(repr=False)
    media_type: str
    digest: str

    def json(self) -> dict[str, Any]:
        """The document.

        Raises:
            RegistryError: it is no JSON object.
        """
        return parse(self.body, f"The manifest {self.digest}")

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    def descriptor(self) -> Descriptor:
        """The pointer to it."""
        return Descriptor(self.media_type, self.digest, len(self.body))

    def listed(self, key: str) -> list[Descriptor]:
        """The descriptors under `layers` or `manifests`.

        Raises:
            RegistryError: there is something else.
        """
        found = self.json().get(key)
        if not isinstance(found, list) or len(found) > MAX_LISTED:
            raise RegistryError(f"The manifest {self.digest} has no list of `{key}`.")
        return [Descriptor.from_json(one) for one in found]


def manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    subject: Descriptor | None = None,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """An OCI image manifest; the same arguments give the same bytes."""
    data: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if artifact_type:
        data["artifactType"] = artifact_type
    data["config"] = config.as_json()
    data["layers"] = [layer.as_json() for layer in layers]
    if subject:
        data["subject"] = pointer(subject).as_json()
    if annotations:
        data["annotations"] = dict(annotations)
    return canonical(data)


def index(
    manifests: Sequence[Descriptor],
    *,
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
    subject: Descriptor | None = None,
) -> bytes:
    """An OCI image index; the same arguments give the same bytes."""
    data: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX}
    if artifact_type:
        data["artifactType"] = artifact_type
    data["manifests"] = [one.as_json() for one in manifests]
    if subject:
        data["subject"] = pointer(subject).as_json()
    if annotations:
        data["annotations"] = dict(annotations)
    return canonical(data)


def pointer(descriptor: Descriptor) -> Descriptor:
    """Media type, digest and size alone."""
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)


def canonical(data: Mapping[str, Any]) -> bytes:
    """JSON bytes that depend on the data alone: keys sorted, no spaces."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    """`sha256:<hex>` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object that came from outside; `what` begins the message, should it be none.

    Raises:
        RegistryError: it is no JSON object.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise RegistryError(f"{what} is no JSON object.", fix="Look at it with `skopeo inspect --raw`; push it again.")
    return data


def strings(data: object) -> dict[str, str]:
    """The entries of a foreign mapping that are text, as labels and annotations must be."""
    if not isinstance(data, Mapping):
        return {}
    return {key: value for key, value in data.items() if isinstance(key, str) and isinstance(value, str)}
