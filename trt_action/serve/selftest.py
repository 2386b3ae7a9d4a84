"""Does the engine compute here what it computed when it was measured? And may its requests share a run?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trt_action import arrays
from trt_action.engine.backend import Array
from trt_action.errors import BuildError
from trt_action.inputs import quote
from trt_action.serve.execution import Infer
from trt_action.serve.tensors import Port

TOLERANCES = {"fp32": 1e-3, "tf32": 5e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 5e-2, "fp8": 1e-1, "int4": 1e-1}
"""Largest ‖x − recorded‖₂ / ‖recorded‖₂ of an output, by precision of the engine. A choice: some hundred times the
unit round-off of fp32, fp16 and bf16 (IEEE 754, 2⁻²⁴, 2⁻¹¹, 2⁻⁸); one step in twenty for the quantized ones. Another GPU
of the same model stays far below, a wrong kernel or a damaged weight does not."""

CHANGED_INTEGERS = 0.01
"""Largest share of differing elements of integer and boolean outputs: an arg-max may flip where two are equal."""

ROW_TOLERANCE = 1e-2
"""Largest relative difference between a row alone and the same row in a batch, beyond what kernels of another batch
size round differently."""


def recorded(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs of `selftest.npz`.

    Raises:
        BuildError: it holds neither.
        DataError: it is damaged.
    """
    found = arrays.load_npz(path)
    inputs = {name.removeprefix("input:"): array for name, array in found.items() if name.startswith("input:")}
    outputs = {name.removeprefix("output:"): array for name, array in found.items() if name.startswith("output:")}
    if not outputs:
        raise BuildError(f"The self-test {quote(path)} records no output.", fix="Build the folder again.")
    return inputs, outputs


def check(outputs: Mapping[str, Array], expected: Mapping[str, Array], precision: str) -> None:
    """Compare outputs with those that were recorded.

    Raises:
        BuildError: an output is missing, of another shape, or further off than its precision explains.
    """
    tolerance = TOLERANCES.get(precision, TOLERANCES["fp16"])
    for name, wanted in expected.items():
        got = outputs.get(name)
        if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
            shown = "missing" if got is None else f"{got.dtype} {list(got.shape)}"
            raise _failed(name, f"it is {shown}; recorded was {wanted.dtype} {list(wanted.shape)}")
        off = difference(got, wanted)
        allowed = tolerance if is_real(wanted) else CHANGED_INTEGERS
        if not off <= allowed:
            raise _failed(name, f"it differs by {off:.3g} from what was recorded; {precision} explains {allowed:g}")


def difference(got: Array, wanted: Array) -> float:
    """‖got − wanted‖₂ / ‖wanted‖₂ of real outputs, infinite if NaN or infinity are in other places; of all others the
    share of elements that differ."""
    if not is_real(wanted):
        return float(np.mean(got != wanted)) if wanted.size else 0.0
    a, b = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf
    norm = float(np.linalg.norm(b[finite]))
    off = float(np.linalg.norm(a[finite] - b[finite]))
    return off / norm if norm else off


def is_real(array: Array) -> bool:
    """Floating point, bfloat16 (which numpy calls void) included."""
    return array.dtype.kind in "fV"


def example(inputs: Mapping[str, Port], opt: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Inputs for a first run where none were recorded: zeros, which every index and every mask allows; sizes as they were
    measured."""
    made: dict[str, Array] = {}
    for name, port in inputs.items():
        if port.values is not None:
            made[name] = np.array(port.values.opt, port.stored).reshape(opt[name])
        elif port.dtype == "string":
            made[name] = np.full(opt[name], "", dtype=object)
        else:
            made[name] = np.zeros(opt[name], port.stored)
    return made


def rows_are_independent(infer: Infer, feeds: Mapping[str, Array], rows: int) -> bool:
    """Whether `rows` requests of one row each may share a run: every row of a batch of different rows must come out as
    it does alone. A model that mixes its rows (a sum over the batch, a first axis that is no batch) does not pass."""
    one = {name: array[:1] for name, array in feeds.items()}
    other = {name: _other(array[:1]) for name, array in feeds.items()}
    parts = [one, other, *[one] * (rows - 2)]
    alone = [infer(one), infer(other)]
    together = infer({name: np.concatenate([part[name] for part in parts]) for name in feeds})
    for name, array in together.items():
        if array.ndim == 0 or array.shape[0] != rows:
            return False
        for row, outputs in enumerate(alone):
            if outputs[name].shape[0] != 1 or outputs[name].shape[1:] != array.shape[1:]:
                return False
            if not difference(array[row : row + 1], outputs[name]) <= ROW_TOLERANCE:
                return False
    return True


def rows_may_move(infer: Infer, feeds: Mapping[str, Array]) -> bool:
    """The same question for a fixed number of rows: turned by one row, and with other rows beside it, every row must
    come out as before. Then rows of different requests may share a run, and copies may fill it up."""
    before = infer(feeds)
    after = infer({name: np.concatenate([_other(array[-1:]), array[:-1]]) for name, array in feeds.items()})
    rows = len(next(iter(feeds.values())))
    return all(
        array.ndim > 0 and array.shape[0] == rows and difference(after[name][1:], array[:-1]) <= ROW_TOLERANCE
        for name, array in before.items()
    )


def _other(array: Array) -> Array:
    """Another row of the same values: reversed, so that indices and masks stay in range; real ones are scaled too."""
    flipped = np.ascontiguousarray(array.reshape(-1)[::-1].reshape(array.shape))
    return (flipped * 0.5 + 0.25).astype(array.dtype) if array.dtype.kind == "f" else flipped


def _failed(name: str, how: str) -> BuildError:
    return BuildError(
        f"The engine does not compute here what it computed when it was measured: output {quote(name)}: {how}.",
        why="Other hardware, another library, or damage: nobody knows how good its answers are.",
        fix="Run it where it was built for, or build and measure it for this host.",
    )
