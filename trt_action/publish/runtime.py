"""Where the runtime base comes from: a registry that has it, or the Docker engine that builds and pushes it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trt_action.errors import RegistryError, SettingsError
from trt_action.evidence import Engine
from trt_action.inputs import quote
from trt_action.publish import context, direct, docker, labels, variants
from trt_action.publish.credentials import Credentials
from trt_action.publish.direct import Base
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.scan import Target
from trt_action.publish.variants import Variant

Mode = Literal["auto", "docker", "registry"]
Open = Callable[[str], tuple[Registry, Credentials | None]]
"""A client and the login for the registry of an image, by the host in its name."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the base. `base`: an image to build on, or a runtime base that is ready."""

    mode: Mode = "auto"
    base: Reference | None = None
    dockerfile: Path | None = None
    log: Callable[[str], None] = field(default=lambda _: None, repr=False)


@dataclass(frozen=True)
class Made:
    """A runtime base that is there. `target`: where a scanner finds it; `in_registry` pushes it, if it is on this host
    alone."""

    target: Target
    in_registry: Callable[[], Base] = field(repr=False)


def obtain(variant: Variant, engine: Engine, asked: Asked, target: Reference, open_registry: Open) -> Made:
    """The runtime base; nothing is pushed yet.

    In this order: `base-image` itself, if it is a runtime base (or Triton's own image); the base of the same recipe beside
    the images of `target`; built here. `registry` never asks Docker, `docker` always does.

    Raises:
        SettingsError: a base image is needed and not named, or the mode excludes the only way.
        RegistryError: the registry refuses, or the base image cannot be had.
        BuildError, BackendUnavailableError: the Docker engine cannot build, or there is none.
    """
    first = _pinned(_first(variant, asked), open_registry)
    if asked.mode != "docker" and (ready := _ready(variant, asked, first, open_registry)) is not None:
        asked.log(f"Runtime base: {ready.reference} ({ready.manifest.digest[:19]}…), as it is.")
        return _made(ready)
    registry, credentials = open_registry(target.host)
    recipe = context.recipe(variant, first, variants.requirements(variant, engine), asked.dockerfile)
    place = target.tagged(recipe.tag)
    if asked.mode != "docker" and registry.digest(target.repository, recipe.tag) is not None:
        asked.log(f"Runtime base: {place}, from an earlier run.")
        return _made(direct.read_base(registry, place))
    if asked.mode == "registry":
        raise SettingsError(
            f"There is no runtime base {place}, and `publish-mode: registry` builds none.",
            why="It is made of the versions that measured; other versions need another base.",
            fix="Run once with `publish-mode: auto` on a host with Docker, or name a runtime base with `base-image`.",
        )
    with docker.connect() as api:
        image = docker.build(api, recipe, open_registry(first.host)[1], log=asked.log)

    def push() -> Base:
        with docker.connect() as api:
            digest = docker.push(api, image, place, credentials, log=asked.log)
        return direct.read_base(registry, place.at(digest))

    return Made(Target("docker", image), push)


def _made(base: Base) -> Made:
    return Made(Target("registry", str(base.reference.at(base.manifest.digest))), lambda: base)


def _first(variant: Variant, asked: Asked) -> Reference:
    """What a Dockerfile of the variant begins with."""
    if asked.base is not None:
        return asked.base
    if variant.base is None:
        raise SettingsError(
            f"The runtime {quote(variant.name)} needs `base-image`.",
            fix="Name Triton's image with the TensorRT version that built the plan, e.g. "
            "`base-image: nvcr.io/nvidia/tritonserver:26.08-py3`.",
        )
    return Reference.parse(variant.base)


def _ready(variant: Variant, asked: Asked, first: Reference, open_registry: Open) -> Base | None:
    """`base-image`, if it can serve as it is; None: something has to be built on it, or it is in no registry."""
    if asked.base is None or asked.dockerfile is not None or first.digest is None:
        return None
    found = direct.read_base(open_registry(first.host)[0], first)
    if variant.base is None:
        return found  # Triton serves without anything of ours
    if labels.RUNTIME not in found.labels:
        return None
    if labels.ENGINE_SHA256 in found.labels:
        raise SettingsError(
            f"`base-image` {quote(first)} is a published image: it holds an engine already.",
            fix="Name the runtime base that it was built on (`runtime-…`), or leave `base-image` out.",
        )
    served = found.labels.get(labels.VARIANT)
    if served != variant.name:
        raise SettingsError(
            f"`base-image` is a runtime base for {quote(served)}; this engine needs `{variant.name}`.",
            fix="Name the base of that variant, or set `variant`.",
        )
    return found


def _pinned(first: Reference, open_registry: Open) -> Reference:
    """With its digest where its registry tells it: a newer base of the same name is another recipe. One that no registry
    has may be on this host: the Docker engine will say."""
    if first.digest:
        return first
    try:
        digest = open_registry(first.host)[0].digest(first.repository, first.target)
    except RegistryError:
        return first
    return Reference(first.host, first.repository, first.tag, digest) if digest else first
