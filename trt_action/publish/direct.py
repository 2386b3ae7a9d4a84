"""An image without a Docker engine: a base that is in a registry, layers of ours on top, and a new config.

The base's layers are mounted where the registry can, so that a new engine costs the upload of one layer, and new labels
none. Config: https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trt_action.errors import RegistryError, StorageError
from trt_action.inputs import quote
from trt_action.publish import oci
from trt_action.publish.oci import Blob, Descriptor, Fetched
from trt_action.publish.reference import Reference, is_digest
from trt_action.publish.registry import Registry

PLATFORM = "linux/amd64"
_OCI_TYPES = {
    oci.DOCKER_LAYER_GZIP: oci.LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": oci.LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": oci.LAYER_ZSTD,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}
"""The same bytes under the name that an OCI manifest has for them."""

_OF_A_CONTAINER = ("container", "container_config", "docker_version", "id", "parent")
"""What the classic builder leaves in a config about the machine that it ran on."""


@dataclass(frozen=True)
class Base:
    """An image in a registry, read and understood; nothing of it is copied yet."""

    registry: Registry = field(repr=False)
    reference: Reference
    manifest: Fetched
    config: Mapping[str, Any] = field(repr=False)
    layers: Sequence[Descriptor]

    @property
    def size(self) -> int:
        """Bytes of its layers, as they are sent."""
        return sum(layer.size for layer in self.layers)

    @property
    def labels(self) -> dict[str, str]:
        config = self.config.get("config")
        return oci.strings(config.get("Labels")) if isinstance(config, Mapping) else {}


@dataclass(frozen=True)
class Change:
    """What our image has beyond its base. None keeps what the base has.

    Args:
        created: RFC 3339, in UTC.
        labels, env: added to the base's, or in place of the same names.
        entrypoint: as in a Dockerfile, a new one forgets the base's `cmd`.
        healthcheck: as in a config: `Test` (list), `Interval`, `Timeout`, `StartPeriod` (nanoseconds), `Retries`.
        ports: `8000/tcp`; added.
        comment: what the history says made the layers.
    """

    created: str
    layers: Sequence[Blob] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] | None = None
    cmd: Sequence[str] | None = None
    user: str | None = None
    workdir: str | None = None
    stop_signal: str | None = None
    healthcheck: Mapping[str, Any] | None = None
    ports: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    comment: str = "trt-action publish"


@dataclass(frozen=True)
class Pushed:
    """An image that is in the registry, by its digest alone. `sent`: bytes that had to be uploaded."""

    manifest: Descriptor
    body: bytes = field(repr=False)
    config: Descriptor
    layers: Sequence[Descriptor]
    sent: int

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def size(self) -> int:
        """Bytes of all layers and the config."""
        return self.config.size + sum(layer.size for layer in self.layers)


def read_base(registry: Registry, reference: Reference, platform: str = PLATFORM) -> Base:
    """Look at an image, or at the one for `platform` (`os/architecture[/variant]`) of an index.

    Raises:
        RegistryError: it is not there, has nothing for the platform, or is damaged.
    """
    found = registry.manifest(reference.repository, reference.target)
    if found is None:
        raise _no_image(reference)
    if found.is_index:
        chosen = _of_platform(found, platform, reference)
        found = registry.manifest(reference.repository, chosen.digest)
        if found is None or found.is_index:
            raise _no_image(reference.at(chosen.digest))
    layers = [replace(one, media_type=_OCI_TYPES.get(one.media_type, one.media_type)) for one in found.listed("layers")]
    pointer = Descriptor.from_json(found.json().get("config"))
    config = oci.parse(registry.blob_bytes(reference.repository, pointer.digest), f"The config of {reference}")
    if len(_diff_ids(config)) != len(layers):
        raise RegistryError(
            f"{quote(reference)} is damaged: it has {len(layers)} layers, and its config another number.",
            fix="Push the base image again, or name another.",
        )
    ours = "/".join(str(config.get(key) or "") for key in ("os", "architecture"))
    if ours != "/".join(platform.split("/")[:2]):
        raise RegistryError(
            f"{quote(reference)} is an image for {quote(ours)}, not for {quote(platform)}.",
            fix="Name a base image of the platform that the engine was measured on.",
        )
    return Base(registry, reference, found, config, layers)


def push(
    base: Base, target: Registry, repository: str, change: Change, *, sent: Callable[[int], None] = lambda _: None
) -> Pushed:
    """Bring the image into `repository` of `target`, by digest: no tag is touched. What is there is not sent again, so
    that a second run after a break goes on where the first one was. `sent` is told the bytes of the blob under way.

    Raises:
        RegistryError: refused, not answered in time, or damaged content.
        StorageError: no space for a layer that has to be copied from another registry.
    """
    counted = _Counted(target, repository, sent)
    for layer in base.layers:
        if not layer.urls:  # those lie elsewhere by their licence
            counted.take_over(base, layer)
    for blob in change.layers:
        counted.upload(blob)
    config = Blob.of(oci.canonical(_config(base.config, change)), oci.CONFIG)
    counted.upload(config)
    layers = [*base.layers, *(blob.descriptor() for blob in change.layers)]
    body = oci.manifest(config.descriptor(), layers, annotations=change.annotations)
    digest = target.put_manifest(repository, None, body, oci.MANIFEST)
    return Pushed(Descriptor(oci.MANIFEST, digest, len(body)), body, config.descriptor(), layers, counted.bytes)


class _Counted:
    """Uploads into one repository; `bytes` had to be sent."""

    def __init__(self, target: Registry, repository: str, sent: Callable[[int], None]) -> None:
        self._target, self._repository, self._sent, self.bytes = target, repository, sent, 0

    def upload(self, blob: Blob) -> None:
        if self._target.blob_size(self._repository, blob.digest) is None:
            self._target.upload(self._repository, blob, sent=self._sent)
            self.bytes += blob.size

    def take_over(self, base: Base, layer: Descriptor) -> None:
        """A layer of the base: it is there, or mounted, or copied through this machine."""
        source = base.reference.repository
        here = base.registry.host == self._target.host
        if here and source == self._repository:
            return
        if self._target.blob_size(self._repository, layer.digest) is not None:
            return
        if here and self._target.mount(self._repository, layer.digest, source):
            return
        try:
            folder = tempfile.TemporaryDirectory(prefix="trt-action-layer-", ignore_cleanup_errors=True)
        except OSError as error:
            raise StorageError(f"There is no place for a layer to be copied: {error.strerror}.") from None
        with folder as name:
            path = Path(name, "layer")
            base.registry.download(source, layer.digest, path)
            self.upload(Blob(layer.digest, path.stat().st_size, layer.media_type, path))


def _config(base: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The new config; the same arguments give the same."""
    config = {key: value for key, value in copy.deepcopy(dict(base)).items() if key not in _OF_A_CONTAINER}
    config["created"] = change.created
    config["config"] = _settings(config.get("config"), change)
    config["rootfs"] = {"type": "layers", "diff_ids": [*_diff_ids(base), *(_diff_id(blob) for blob in change.layers)]}
    history = config.get("history")
    if isinstance(history, list):
        entry = {"created": change.created, "created_by": change.comment}
        config["history"] = history + [entry for _ in change.layers]
    return config


def _settings(base: object, change: Change) -> dict[str, Any]:
    """The part that a container starts with."""
    settings: dict[str, Any] = dict(base) if isinstance(base, Mapping) else {}
    settings["Labels"] = {**oci.strings(settings.get("Labels")), **change.labels}
    old = settings.get("Env")
    pairs = (str(line).partition("=") for line in old) if isinstance(old, list) else ()
    environment = {name: value for name, _, value in pairs} | dict(change.env)
    settings["Env"] = [f"{name}={value}" for name, value in environment.items()]
    if change.entrypoint is not None:
        settings["Entrypoint"] = list(change.entrypoint)
        settings.pop("Cmd", None)
    if change.cmd is not None:
        settings["Cmd"] = list(change.cmd)
    named = {"User": change.user, "WorkingDir": change.workdir, "StopSignal": change.stop_signal}
    settings.update({key: value for key, value in named.items() if value is not None})
    if change.healthcheck is not None:
        settings["Healthcheck"] = dict(change.healthcheck)
    if change.ports:
        old_ports = settings.get("ExposedPorts")
        settings["ExposedPorts"] = {
            **(old_ports if isinstance(old_ports, dict) else {}),
            **{p: {} for p in change.ports},
        }
    settings.pop("Image", None)
    return settings


def _diff_ids(config: Mapping[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, Mapping) else None
    return [one for one in found if isinstance(one, str) and is_digest(one)] if isinstance(found, list) else []


def _diff_id(blob: Blob) -> str:
    if blob.diff_id is None:
        raise ValueError(f"{blob.digest} is no layer: it has no diff_id")
    return blob.diff_id


def _of_platform(index: Fetched, platform: str, reference: Reference) -> Descriptor:
    """The first entry that fits: what a plain `docker pull` takes."""
    wanted = platform.split("/")
    offered = []
    for one in index.listed("manifests"):
        parts = [str((one.platform or {}).get(key) or "") for key in ("os", "architecture", "variant")]
        if parts[: len(wanted)] == wanted and one.media_type in oci.MANIFESTS:
            return one
        offered.append("/".join(part for part in parts if part))
    raise RegistryError(
        f"{quote(reference)} has no image for {quote(platform)}.",
        why=f"It has: {', '.join(sorted({quote(one) for one in offered if one and 'unknown' not in one})[:10]) or 'none'}.",
        fix="Name a base image of the platform that the engine was measured on.",
    )


def _no_image(reference: Reference) -> RegistryError:
    return RegistryError(
        f"There is no image {quote(reference)}.",
        why="It does not exist, or this login may not see it.",
        fix="Check `base-image` and the login; push the base once, or use `publish-mode: docker`.",
        status=404,
        code="MANIFEST_UNKNOWN",
    )
