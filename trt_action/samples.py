"""Do a user's arrays fit the model? Names, the sample axis, shapes, dtypes and values; the rules are in `data.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from trt_action.arrays import Array
from trt_action.errors import DataError
from trt_action.evidence import ModelInfo, ShapeRange, TensorInfo, ValueRange
from trt_action.inputs import nearest, quote, quote_all

LABELS = "labels"


def by_input(arrays: dict[str, Array], info: ModelInfo, spec: str) -> tuple[dict[str, Array], list[str]]:
    """The arrays by the model's input names; one array for one input needs no name, and sizes whose values are known
    need no array."""
    names = [tensor.name for tensor in info.inputs]
    asked = [name for name in names if info.shapes[name].values is None] or names
    if len(asked) == 1 and len(arrays) == 1 and not arrays.keys() & set(names):
        (given, array), *_ = arrays.items()
        return {asked[0]: array}, [
            f"The array {quote(given)} of {quote(spec)} is used for the only input {quote(asked[0])}."
        ]
    for name in asked:
        if name not in arrays:
            close = nearest(name, arrays)
            raise DataError(
                f"{quote(spec)} has no array for the input {quote(name)}; it has {quote_all(arrays) or 'none'}.",
                fix=f"Rename {quote(close)} to {quote(name)}." if close else "Name the arrays like the model's inputs.",
            )
    if extra := [name for name in arrays if name not in names]:
        raise DataError(
            f"{quote(spec)} has the array {quote(extra[0])}; the model has no such input, but {quote_all(names)}.",
            fix=f"Remove it, or name it like an input (or `{LABELS}`).",
        )
    return arrays, []


def count(named: Mapping[str, Array], labels: Array | None, spec: str) -> int:
    """Number of samples: the same in every array and above zero."""
    lengths: dict[str, int] = {}
    for name, array in [*named.items(), *([(LABELS, labels)] if labels is not None else [])]:
        if array.ndim == 0:
            raise DataError(
                f"{quote(name)} of {quote(spec)} is a single number; axis 0 must count samples.",
                fix="Save one entry per sample.",
            )
        lengths[name] = len(array)
    samples = next(iter(lengths.values()), 0)
    for name, length in lengths.items():
        if length != samples:
            raise DataError(
                f"{quote(name)} of {quote(spec)} has {length} samples; {quote(next(iter(lengths)))} has {samples}.",
                why="Axis 0 counts samples in every array.",
                fix="Save the same samples in every array.",
            )
    if not samples:
        raise DataError(f"{quote(spec)} has no samples.", fix="Save at least one.")
    return samples


def check_shape(array: Array, tensor: TensorInfo, measured: ShapeRange, spec: str) -> None:
    if fits(array, measured):
        return
    opt = measured.opt
    without = f"{['N', *opt]}, samples along axis 0."
    raise DataError(
        f"{quote(tensor.name)} of {quote(spec)} has the shape {list(array.shape)}; the model is measured at "
        f"{opt} (declared {quote(tensor.shape)}).",
        why=f"Expected {without}"
        if not opt or measured.values
        else f"Expected {['N', *opt[1:]]}, samples along axis 0, or {['N', *opt]} if the input has no batch axis.",
        fix="Bring the samples to that shape, or set `shapes` to the shape of the samples where the model leaves it open.",
    )


def fits(array: Array, measured: ShapeRange) -> bool:
    """By the rule of the sample axis (module docstring); an input that holds sizes has no batch axis."""
    tail = list(array.shape[1:])
    return (bool(measured.opt) and not measured.values and tail == measured.opt[1:]) or tail == measured.opt


def check_values(array: Array, name: str, known: ValueRange, spec: str) -> None:
    """Sizes in every sample are within the range that engines are built for."""
    inside = (array >= np.array(known.min, array.dtype)) & (array <= np.array(known.max, array.dtype))
    wrong = np.flatnonzero(~inside.reshape(len(array), -1).all(axis=1))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{quote(name)} of {quote(spec)} holds the sizes {array[first].reshape(-1).tolist()} in sample {first}; "
            f"`shapes` gives its values from {known.min} to {known.max}.",
            why="An engine is built for that range and refuses others.",
            fix="Correct the sample, or widen `values` in `shapes`.",
        )


def cast(array: Array, tensor: TensorInfo, spec: str) -> tuple[Array, list[str]]:
    target = numpy_dtype(tensor.dtype)
    if array.dtype == target:
        return array, []
    was, now = family(array.dtype), family(target)
    if was == now == "float":
        with np.errstate(over="ignore"):
            cast = array.astype(target)
    elif was == now == "integer" and _values_fit(array, target):
        cast = array.astype(target)
    else:
        raise _wrong_dtype(array.dtype, tensor, spec, same=was == now)
    return cast, [f"The samples of {quote(tensor.name)} were cast from {array.dtype} to {tensor.dtype}."]


def _wrong_dtype(dtype: np.dtype[Any], tensor: TensorInfo, spec: str, *, same: bool) -> DataError:
    what = f"{quote(tensor.name)} of {quote(spec)} has dtype {dtype}; the model takes {tensor.dtype}."
    if same:
        return DataError(what, why="Some values do not fit.", fix=f"Correct the values or save them as {tensor.dtype}.")
    return DataError(
        what,
        why="It is not converted for you: how to scale the values (÷ 255? mean and deviation?) would be a guess.",
        fix=f"Do the model's own preprocessing and save the result: `array.astype('{tensor.dtype}')`.",
    )


def _values_fit(array: Array, target: np.dtype[Any]) -> bool:
    limits = np.iinfo(target)
    return bool(array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max))


def family(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f" or dtype == ml_dtypes.bfloat16:
        return "float"
    return {"i": "integer", "u": "integer", "b": "bool"}.get(dtype.kind, dtype.name)


def check_finite(array: Array, name: str, spec: str) -> None:
    if family(array.dtype) != "float":
        return
    for index, sample in enumerate(array):
        if not np.isfinite(sample).all():
            raise DataError(
                f"{quote(name)} of {quote(spec)} holds NaN or infinity (first in sample {index}).",
                why="One such value spoils the calibration ranges and every comparison."
                " A value that is too large for the model's dtype becomes infinite as well.",
                fix="Remove or repair these samples.",
            )


def check_layout(inputs: Mapping[str, Array], info: ModelInfo, spec: str) -> None:
    """Inputs with a batch axis agree on its size; the others are equal for samples that share an inference."""
    sizes = {name: info.shapes[name].opt[0] for name, array in inputs.items() if is_batched(array, info, name)}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"The inputs of {quote(spec)} have different batch sizes: "
            + ", ".join(f"{quote(name)} {size}" for name, size in sizes.items())
            + ".",
            why="An array with as many axes as its input is taken to have the batch axis first.",
            fix="Give an input without a batch axis one axis more: (samples, *shape of the input).",
        )
    if max(sizes.values(), default=1) == 1:
        return
    for name, array in inputs.items():
        if name not in sizes and (array != array[:1]).any():
            raise DataError(
                f"{quote(name)} of {quote(spec)} differs between samples, but it has no batch axis.",
                why=f"{max(sizes.values())} samples share one inference, and with it one value of this input.",
                fix="Set `batch-size: 1` (or a batch of 1 in `shapes`).",
            )


def is_batched(array: Array, info: ModelInfo, name: str) -> bool:
    measured = info.shapes[name]
    return measured.values is None and array.ndim == len(measured.opt)


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
