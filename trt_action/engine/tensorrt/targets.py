"""Which GPUs an engine of TensorRT for RTX is built for, and which one it can run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trt_action.errors import BackendUnavailableError, BuildError

NEEDS = {"fp8": (8, 9), "bf16": (8, 0)}
"""Compute capability from which on GPUs compute in it (measured: TensorRT for RTX refuses the ones before)."""


def check_computes(precision: str, capabilities: Sequence[str]) -> None:
    """Refuse a target that does not compute in the precision.

    Raises:
        BackendUnavailableError: names it.
    """
    least = NEEDS.get(precision, (0, 0))
    for wanted in capabilities:
        major, _, minor = wanted.partition(".")
        if (int(major), int(minor)) < least:
            raise BackendUnavailableError(
                f"GPUs of compute capability {wanted} do not compute in {precision}.",
                why=f"{precision} needs {least[0]}.{least[1]} or newer; `compute-capabilities` names {', '.join(capabilities)}.",
                fix=f"Leave {wanted} out of `compute-capabilities`, or use another precision.",
            )


def supported(trt: Any) -> tuple[str, ...]:
    """Compute capabilities of the installed library's targets, smallest first: (`7.5`, `8.0`, …); empty where the library
    has no such list (TensorRT itself builds for the GPU that is there)."""
    if not hasattr(trt, "ComputeCapability"):
        return ()
    numbers = (name.removeprefix("SM") for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
    return tuple(f"{number[:-1]}.{number[-1]}" for number in sorted(numbers, key=int))


def check_known(trt: Any, capabilities: Sequence[str]) -> None:
    """Raises:
    BuildError: the library has no such target.
    """
    known = supported(trt)
    for wanted in capabilities:
        if wanted not in known:
            raise BuildError(
                f"`compute-capabilities` names {wanted}; this library builds for {', '.join(known) or 'no target'}.",
                why=""
                if known
                else "TensorRT builds a plan for the GPU that is there; only TensorRT for RTX has targets.",
                fix="Use one of them, or leave `compute-capabilities` out.",
            )


def set_on(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    """Build for these (`8.9`); none = for every GPU that the library supports.

    Raises:
        BuildError: the library has no such target.
    """
    check_known(trt, capabilities)
    if not capabilities:
        return
    if hasattr(config, "num_compute_capabilities") and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = len(capabilities)
        for index, wanted in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, _member(wanted)), index)


def check_runs_on(trt: Any, title: str, gpu: str, capability: tuple[int, int], built_for: Sequence[str] = ()) -> None:
    """Refuse a GPU that the library, or this engine, does not support.

    Args:
        built_for: the engine's own targets; empty = all.

    Raises:
        BackendUnavailableError: with the GPU's compute capability and those that would do.
    """
    known = supported(trt)
    here = f"{capability[0]}.{capability[1]}"
    if known and here not in known:
        raise BackendUnavailableError(
            f"{title} {trt.__version__} does not run on this GPU: {gpu} has compute capability {here}, "
            f"it supports {', '.join(known)}.",
            why="It is made for GeForce and RTX cards; an engine for other GPUs can be built here, not measured.",
            fix="Use `backend: tensorrt` or `backend: onnxruntime` on this GPU, or measure on a supported one.",
        )
    if built_for and here not in built_for:
        raise BackendUnavailableError(
            f"The engine was built for compute capability {', '.join(built_for)}; {gpu} has {here}.",
            fix=f"Add {here} to `compute-capabilities`, or leave it out to build for every GPU.",
        )


def _member(capability: str) -> str:
    """`8.9` → `SM89`."""
    return "SM" + capability.replace(".", "")
