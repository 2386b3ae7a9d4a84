"""The image: a runtime base, the engine as its last layer, and what it says about itself; and how much it weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trt_action.errors import NotPublishedError
from trt_action.publish import labels, layers, version
from trt_action.publish.direct import Base, Change
from trt_action.publish.oci import Fetched
from trt_action.publish.registry import Registry
from trt_action.publish.variants import Variant
from trt_action.publish.version import Version


@dataclass(frozen=True)
class Size:
    """Bytes as they are pulled: layers packed as they lie in the registry. `previous`: None without one."""

    base: int
    engine: int
    previous: int | None = None
    previous_tag: str = ""

    @property
    def total(self) -> int:
        return self.base + self.engine

    def __str__(self) -> str:
        text = f"{megabytes(self.total)} to pull: runtime {megabytes(self.base)}, engine {megabytes(self.engine)}"
        if self.previous is None:
            return text
        change = self.total - self.previous
        share = f", {change / self.previous:+.1%}" if self.previous else ""
        return f"{text}; `{self.previous_tag}` has {megabytes(self.previous)} ({change / 1e6:+.1f} MB{share})"


def change(engine: Version, variant: Variant, base: Base, work: Path, given: Mapping[str, str]) -> Change:
    """What the image has beyond its base: the same engine, evidence and base give the same.

    Args:
        work: a folder for the layer, which has to stay until the image is pushed.
        given: the user's own labels.

    Raises:
        StorageError: the layer cannot be written.
        SettingsError: the variant cannot serve the engine.
    """
    tree = version.stage(engine, variant, work / "tree")
    layer = layers.pack(tree, version.MODELS, work / "engine.tar")
    here = base.reference.at(base.manifest.digest)
    said = labels.labels(
        engine.evidence, variant=variant.name, evidence_digest=engine.evidence_digest, base=here, given=given
    )
    made = Change(
        created=engine.evidence.created,
        layers=[layer],
        labels=said,
        annotations=said,
        comment="trt-action publish: the measured engine",
    )
    bare = variant.name == "triton" and labels.RUNTIME not in base.labels
    return replace(made, **_TRITON) if bare else made


_SECOND = 1_000_000_000
_TRITON: Mapping[str, Any] = {
    "entrypoint": ("tritonserver", f"--model-repository={version.MODELS}"),
    "user": f"{layers.USER}:{layers.USER}",
    "workdir": version.MODELS,
    "stop_signal": "SIGTERM",
    "ports": ("8000/tcp", "8001/tcp", "8002/tcp"),
    "healthcheck": {
        "Test": [
            "CMD",
            "python3",
            "-c",
            "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)",
        ],
        "Interval": 10 * _SECOND,
        "Timeout": 3 * _SECOND,
        "StartPeriod": 120 * _SECOND,
        "Retries": 3,
    },
}
"""What templates/triton.Dockerfile.j2 says, for an image of Triton's own makers that no Docker engine has touched."""


def size(base: Base, made: Change, registry: Registry, repository: str, tags: Sequence[str]) -> Size:
    """How much it weighs beside the image that the first of `tags` which exists points to now.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    own = sum(layer.size for layer in made.layers)
    for tag in tags:
        found = registry.manifest(repository, tag)
        if found is not None and not found.is_index:
            return Size(base.size, own, _weight(found), tag)
    return Size(base.size, own)


def check_size(found: Size, limit: int | None) -> None:
    """Hold `max-image-size`.

    Raises:
        NotPublishedError: the image is larger.
    """
    if limit is not None and found.total > limit:
        raise NotPublishedError(
            f"Nothing is published: the image has {found}, and `max-image-size` is {megabytes(limit)}.",
            fix="Raise `max-image-size`, choose a smaller `variant`, or keep the model small.",
        )


def megabytes(size: int) -> str:
    """`12.3 MB`; a MB has 1,000,000 bytes."""
    return f"{size / 1e6:.1f} MB"


def _weight(found: Fetched) -> int:
    return sum(layer.size for layer in found.listed("layers"))
