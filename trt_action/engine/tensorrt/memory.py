"""How much memory a build may take, and whether there is enough, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from trt_action.engine import hygiene
from trt_action.errors import OutOfMemoryError
from trt_action.inputs import quote
from trt_action.settings import units

AUTO_SHARE = 0.8
"""Of what is left of the device's memory beside the weights: the driver and the activations need some too."""

MIN_WORKSPACE = 32 << 20
"""Bytes. Below, builders find no implementation for ordinary convolutions."""


@dataclass(frozen=True)
class Budget:
    """Bytes. `weights` are those of the prepared graph; `device_free` None = there is no GPU here."""

    weights: int
    device_free: int | None
    host_free: int


def host_free() -> int:
    """Bytes of memory that this process can still get: of the host, or of its control group where that is less."""
    found = psutil.virtual_memory()
    limit = hygiene.memory_limit()
    return int(found.available if limit is None else min(found.available, limit))


def check(budget: Budget, name: str, *, streamed: bool = False) -> None:
    """Refuse what cannot end well: weights that alone do not fit.

    A build of TensorRT holds the weights about three times in the host's memory (measured: BERT-base fp32, 443 MB, peaks at
    1.6 GB); only the certain case is refused. `streamed`: the GPU need not hold them all.

    Raises:
        OutOfMemoryError: names what is needed and what is free.
    """
    for place, free in (("this host", budget.host_free), ("the GPU", None if streamed else budget.device_free)):
        if free is not None and budget.weights > free:
            raise OutOfMemoryError(
                f"The weights of {quote(name)} take {units.size_text(rounded(budget.weights))}; "
                f"{units.size_text(rounded(free))} are free on {place}.",
                why="The build was not started: it could only have been killed.",
                fix="Free some memory, use a larger machine or GPU, or a lower precision"
                + (", or `weight-streaming: auto`." if place == "the GPU" else "."),
            )


def workspace(asked: str, budget: Budget) -> int | None:
    """Bytes for the builder, from `auto`, a size or a share of the free device memory; None leaves it to TensorRT
    (without a GPU: a build for absent GPUs does not run anything).

    Raises:
        OutOfMemoryError: more than there is beside the weights.
    """
    free = budget.device_free
    if free is None:
        return None if asked == "auto" or asked.endswith("%") else units.size(asked)
    left = max(free - budget.weights, 0)
    if asked == "auto":
        return max(int(AUTO_SHARE * left), MIN_WORKSPACE)
    wanted = int(units.percent(asked) * free) if asked.endswith("%") else units.size(asked)
    if wanted > left:
        raise OutOfMemoryError(
            f"`workspace: {asked}` is {units.size_text(rounded(wanted))}; beside the weights "
            f"({units.size_text(rounded(budget.weights))}) {units.size_text(rounded(left))} of the GPU's "
            f"{units.size_text(rounded(free))} of free memory are left.",
            why="The builder would run out of memory in the middle.",
            fix="Use `workspace: auto`, or end the other processes on this GPU (`nvidia-smi`).",
        )
    return wanted


def rounded(count: int) -> int:
    """To three digits, for a message."""
    if count < 1000:
        return count
    step = 10 ** (len(str(count)) - 3)
    return int(count // step * step)
