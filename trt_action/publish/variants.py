"""The runtimes that an engine can be published with. Pure, except for which libraries are installed here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from trt_action.errors import SettingsError
from trt_action.evidence import Engine
from trt_action.inputs import quote

PYTHON = "docker.io/library/python:3.12-slim-bookworm"


@dataclass(frozen=True)
class Variant:
    """One runtime. `base`: None where the user has to name it. `libraries`: requirements; `{version}` is that of the
    backend that measured. `extras`: of our own package."""

    name: str
    backend: str | None
    base: str | None
    gpu: bool
    libraries: tuple[str, ...] = ()
    extras: tuple[str, ...] = ("serve", "grpc")

    @property
    def module(self) -> str:
        """What the backend's library is imported as."""
        return {"tensorrt-rtx": "tensorrt_rtx"}.get(self.backend or "", self.backend or "")


VARIANTS: Mapping[str, Variant] = {
    one.name: one
    for one in (
        Variant("onnxruntime", "onnxruntime", PYTHON, False, ("onnxruntime=={version}",)),
        Variant("tensorrt-rtx", "tensorrt-rtx", PYTHON, True, ("tensorrt-rtx=={version}",), ("serve", "grpc", "cuda")),
        Variant("tensorrt-lean", "tensorrt", PYTHON, True, ("tensorrt-lean=={version}",), ("serve", "grpc", "cuda")),
        Variant("tensorrt", "tensorrt", PYTHON, True, ("tensorrt=={version}",), ("serve", "grpc", "cuda")),
        Variant("triton", None, None, True, (), ()),
    )
}

_VERSION = re.compile(r"\d+(\.\d+){1,4}([.+-][A-Za-z0-9.]+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def choose(asked: str, engine: Engine, options: Mapping[str, object]) -> Variant:
    """The variant that was asked for, or with `auto` the one of the engine's backend.

    Args:
        options: of the engine's record, `RuntimeOptions.as_json()`.

    Raises:
        SettingsError: it cannot load this engine.
    """
    name = engine.backend if asked == "auto" else asked
    if name not in VARIANTS:
        raise SettingsError(
            f"There is no runtime {quote(name)}.", fix=f"`variant` is one of: auto, {', '.join(VARIANTS)}."
        )
    variant = VARIANTS[name]
    if variant.backend not in (None, engine.backend):
        raise SettingsError(
            f"The runtime {quote(name)} cannot load an engine of {quote(engine.backend)}.",
            fix=f"Leave `variant` out, or set it to `{engine.backend}`.",
        )
    if name == "onnxruntime" and options.get("device", "cpu") != "cpu":
        raise SettingsError(
            "The runtime `onnxruntime` has no CUDA, and this engine was measured with it.",
            why="It would run on the CPU, with numbers that nobody has measured.",
            fix="Measure with `device: cpu`, publish with a TensorRT backend, or use `variant: triton`.",
        )
    tensorrt = options.get("tensorrt")
    asked_for = tensorrt.get("version_compatible") if isinstance(tensorrt, Mapping) else None
    if name == "tensorrt-lean" and asked_for in (None, "none"):
        raise SettingsError(
            "The runtime `tensorrt-lean` loads version-compatible plans only, and this one is not.",
            why="The lean runtime holds no kernels of its own version; a plan has to bring all that it needs.",
            fix="Build with `version-compatible: without-lean` and measure that plan (it can be slower), or use `tensorrt`.",
        )
    return variant


def requirements(variant: Variant, engine: Engine) -> list[str]:
    """What is installed into the runtime: the backend in the version that measured, the rest in the one that is
    installed here, where it is, so that what serves is what was tested."""
    if not _VERSION.fullmatch(engine.backend_version):
        raise SettingsError(
            f"The version of {quote(engine.backend)} is {quote(engine.backend_version)}, which is none."
        )
    if not variant.libraries:
        return []
    exact = [line.format(version=_pinned(engine.backend, engine.backend_version)) for line in variant.libraries]
    return [*exact, *sorted(_installed(line) for line in _needed(variant.extras))]


def _pinned(backend: str, version: str) -> str:
    """NVIDIA's wheels have a fourth number that the libraries do not tell."""
    return version if backend == "onnxruntime" or version.count(".") > 2 else f"{version}.*"


def _needed(extras: tuple[str, ...]) -> list[str]:
    """Requirements of our own package: the named extras, and what its arrays are made of."""
    found = []
    for line in metadata.requires("trt-action") or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        name = _name(requirement)
        wanted = any(f"extra == '{extra}'" in marker.replace('"', "'") for extra in extras)
        if wanted or (not marker and name in ("numpy", "ml-dtypes")):
            found.append(requirement)
    return found


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0].lower().replace("_", "-") if found else ""


def _installed(requirement: str) -> str:
    """The requirement, at the version that is installed here."""
    try:
        version = metadata.version(_name(requirement))
    except metadata.PackageNotFoundError:
        return requirement
    extras = requirement[requirement.find("[") : requirement.find("]") + 1] if "[" in requirement else ""
    return f"{_name(requirement)}{extras}=={version}"
