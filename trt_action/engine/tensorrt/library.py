"""The two libraries: what they are called, and how they are imported."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from trt_action.errors import BackendUnavailableError


@dataclass(frozen=True)
class Flavour:
    """`module` is what Python imports, `magic` the first four bytes of its plans."""

    backend: str
    module: str
    title: str
    magic: bytes
    built_on_the_gpu: bool
    """Kernels are timed on the GPU while it builds, so it must be there; TensorRT for RTX compiles them where it runs."""


TENSORRT = Flavour("tensorrt", "tensorrt", "TensorRT", b"ftrt", built_on_the_gpu=True)
RTX = Flavour("tensorrt-rtx", "tensorrt_rtx", "TensorRT for RTX", b"vtrt", built_on_the_gpu=False)
FLAVOURS = (TENSORRT, RTX)


def load(flavour: Flavour) -> Any:
    """The library's module.

    Raises:
        BackendUnavailableError: it is not installed, or its own libraries do not load.
    """
    try:
        return importlib.import_module(flavour.module)
    except (ImportError, OSError, RuntimeError) as error:  # the wheel's own loader raises the last two
        raise BackendUnavailableError(
            f"{flavour.title} is not usable in this Python environment.",
            why=" ".join(str(error).split())[:300],
            fix=f"Install it with `pip install 'trt-action[{flavour.backend}]'` for the same Python"
            + (", or run in NVIDIA's image (docs/tensorrt.md)." if flavour is TENSORRT else "."),
        ) from None


def numbers(version: str) -> tuple[int, ...]:
    """`10.16.1.11` → (10, 16, 1, 11); parts that are no numbers end it."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
