"""The profile of a model: which shapes its inputs have when it is measured.

Rules, in this order, for every axis of every input:
1. the model fixes it: it stays, and `shapes` must agree;
2. `shapes` names it;
3. another input has an axis of the same symbolic name, and `shapes` gave that one a size: the same size;
4. it is axis 0: the batch axis, and `batch_size` is taken, or 1 with a note;
5. otherwise the user is asked. No size is ever guessed.

An input may also hold sizes itself (the target of a Reshape or a Resize, the limit of a Range): TensorRT calls it a shape
tensor, and must know the range of its values when it builds. `shapes` names them: `{"size": {"values": …}}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_action.errors import ModelError
from trt_action.inputs import nearest, quote, quote_all

Dim = int | str | None

MAX_INPUT_BYTES = 4 << 30
"""Of one input at its largest shape. A choice: a batch of 6,800 images of 3 x 224 x 224 in float32."""


@dataclass(frozen=True)
class Input:
    """An input or output as the model declares it."""

    name: str
    dtype: str
    itemsize: int
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Values:
    """Of an input that holds sizes: its elements; `opt` is what is measured."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}


@dataclass(frozen=True)
class Profile:
    """Shapes of one input; all three equal for a fixed shape. `values` where they were given."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]
    values: Values | None = None

    def as_json(self) -> dict[str, Any]:
        shapes: dict[str, Any] = {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}
        return {**shapes, "values": self.values.as_json()} if self.values else shapes

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Profile:
        """The inverse of `as_json`."""
        values = record.get("values")
        held = Values(*_three(values)) if values else None
        return cls(*_three(record), held)


_KEYS = ("min", "opt", "max")


def _three(record: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return tuple(record["min"]), tuple(record["opt"]), tuple(record["max"])


def parse(shapes: Mapping[str, Any]) -> dict[str, Profile]:
    """The setting `shapes` as profiles; `min` and `max` default to `opt`.

    Of an input whose `values` are given, the shape is one axis until `resolve` knows the model's.

    Raises:
        ModelError: not a list of integers, unknown keys, or not min ≤ opt ≤ max.
    """
    return {str(name): _profile(str(name), value) for name, value in shapes.items()}


def resolve(
    inputs: Sequence[Input], shapes: Mapping[str, Profile], batch_size: int | None
) -> tuple[dict[str, Profile], list[str]]:
    """A profile for every input, and a note for everything that was assumed.

    Raises:
        ModelError: an unknown name, a wrong rank, a fixed axis that differs, an axis that is still open; values for an
            input that cannot hold sizes, or too many of them.
    """
    _refuse_unknown(inputs, shapes)
    sizes = _symbols(inputs, shapes)
    profiles: dict[str, Profile] = {}
    notes: list[str] = []
    for tensor in inputs:
        given = shapes.get(tensor.name)
        if given is not None and given.values is not None:
            profiles[tensor.name] = _holding(tensor, given.values)
        elif given is not None:
            _check_fits(tensor, given)
            profiles[tensor.name] = given
        else:
            profiles[tensor.name], more = _fill(tensor, sizes, batch_size)
            notes += more
        _check_size(tensor, profiles[tensor.name])
    if batch_size is not None and not shapes and all(one.opt[:1] != (batch_size,) for one in profiles.values()):
        notes.append(f"`batch-size: {batch_size}` changes nothing: the model fixes axis 0 of every input.")
    return profiles, notes


def _profile(name: str, value: Any) -> Profile:
    if isinstance(value, Mapping) and "values" in value:
        if len(value) > 1:
            raise _malformed(name, "beside `values` there is no shape")
        values = Values(*_range(name, value["values"], _values))
        one = (len(values.opt),)
        return Profile(one, one, one, values)
    return Profile(*_range(name, value, _shape))


def _range(
    name: str, value: Any, read: Callable[[str, Any], tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(min, opt, max)."""
    if not isinstance(value, Mapping):
        one = read(name, value)
        return one, one, one
    if unknown := [key for key in value if key not in _KEYS]:
        raise _malformed(name, f"{quote(unknown[0])} is not one of `min`, `opt`, `max`")
    if "opt" not in value:
        raise _malformed(name, "`opt`, which is measured, is missing")
    low, opt, high = (read(name, value.get(key, value["opt"])) for key in _KEYS)
    if not len(low) == len(opt) == len(high):
        raise _malformed(name, "`min`, `opt` and `max` differ in length")
    if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
        raise _malformed(name, f"{[list(low), list(opt), list(high)]} does not keep min ≤ opt ≤ max everywhere")
    return low, opt, high


def _values(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _malformed(name, f"{quote(value)} is not a list of values")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int) or not -(2**31) <= one < 2**31:
            raise _malformed(name, f"{quote(one)} is not a whole number of 32 bits")
    return tuple(value)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise _malformed(name, f"{quote(value)} is not a list of sizes")
    for size in value:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 2**31:
            raise _malformed(name, f"{quote(size)} is not a size of at least 1")
    return tuple(value)


def _malformed(name: str, reason: str) -> ModelError:
    return ModelError(
        f"The shape of input {quote(name)} in `shapes` is wrong: {reason}.",
        fix='Write `{"input": [1, 3, 224, 224]}` or `{"input": {"min": […], "opt": […], "max": […]}}`; for an input that '
        'holds sizes itself `{"input": {"values": {"min": […], "opt": […], "max": […]}}}`.',
    )


def _refuse_unknown(inputs: Sequence[Input], shapes: Mapping[str, Profile]) -> None:
    known = [tensor.name for tensor in inputs]
    for name in shapes:
        if name not in known:
            close = nearest(name, known)
            raise ModelError(
                f"`shapes` names the input {quote(name)}; the model has {quote_all(known)}.",
                fix=f"Did you mean {quote(close)}?" if close else "Use the model's own input names.",
            )


def _symbols(inputs: Sequence[Input], shapes: Mapping[str, Profile]) -> dict[str, tuple[int, int, int]]:
    """(min, opt, max) of the symbolic axes that `shapes` gave a size. ONNX: equal names mean equal sizes."""
    sizes: dict[str, tuple[int, int, int]] = {}
    for tensor in inputs:
        given = shapes.get(tensor.name)
        if given is None or given.values is not None or len(tensor.shape) != len(given.opt):
            continue
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, str):
                sizes.setdefault(dim, (given.min[axis], given.opt[axis], given.max[axis]))
    return sizes


def _holding(tensor: Input, values: Values) -> Profile:
    """The shape of an input that holds sizes: of one axis, or a single number."""
    count = len(values.opt)
    if tensor.dtype not in ("int32", "int64") or len(tensor.shape) > 1:
        raise ModelError(
            f"`shapes` gives `values` of input {quote(tensor.name)}, which is {tensor.dtype} {show(tensor.shape)}.",
            why="Sizes are held by an int32 or int64 input of at most one axis.",
            fix="Give its shape instead, or leave it out.",
        )
    wanted = tensor.shape[0] if tensor.shape else 1
    if isinstance(wanted, int) and wanted != count:
        raise ModelError(
            f"`shapes` gives input {quote(tensor.name)} {count} values; it holds {wanted} (declared {show(tensor.shape)}).",
            fix="Give one value per element, in a list.",
        )
    shape = (count,) if tensor.shape else ()
    return Profile(shape, shape, shape, values)


def _check_fits(tensor: Input, given: Profile) -> None:
    declared = show(tensor.shape)
    if len(tensor.shape) != len(given.opt):
        raise ModelError(
            f"`shapes` gives input {quote(tensor.name)} {len(given.opt)} axes; the model declares "
            f"{len(tensor.shape)}: {declared}.",
            fix="Give one size per axis, the fixed ones included.",
        )
    for axis, dim in enumerate(tensor.shape):
        sizes = {given.min[axis], given.opt[axis], given.max[axis]}
        if isinstance(dim, int) and sizes != {dim}:
            raise ModelError(
                f"`shapes` gives axis {axis} of input {quote(tensor.name)} the size {max(sizes - {dim})}; "
                f"the model fixes it to {dim} ({declared}).",
                fix=f"Write {dim} there, or export the model with that axis dynamic.",
            )


def _fill(
    tensor: Input, sizes: Mapping[str, tuple[int, int, int]], batch_size: int | None
) -> tuple[Profile, list[str]]:
    filled: list[tuple[int, int, int]] = []
    notes: list[str] = []
    for axis, dim in enumerate(tensor.shape):
        if isinstance(dim, int):
            filled.append((dim, dim, dim))
        elif isinstance(dim, str) and dim in sizes:
            filled.append(sizes[dim])
        elif axis == 0:
            filled.append((batch_size or 1,) * 3)
            if batch_size is None:
                notes.append(f"Assumed batch = 1 for input {quote(tensor.name)} {show(tensor.shape)}.")
        else:
            raise _ask(tensor, axis)
    low, mid, high = zip(*filled, strict=True) if filled else ((), (), ())
    return Profile(low, mid, high), notes


def _ask(tensor: Input, open_axis: int) -> ModelError:
    example = [dim if isinstance(dim, int) else (1 if axis == 0 else 128) for axis, dim in enumerate(tensor.shape)]
    return ModelError(
        f"Which shape shall input {quote(tensor.name)} have? The model leaves axis {open_axis} open: "
        f"{show(tensor.shape)}.",
        why="Speed depends on it, so it is not guessed.",
        fix=f"Add the sizes that production uses, e.g. `shapes: {json.dumps({tensor.name: example})}`.",
    )


def _check_size(tensor: Input, profile: Profile) -> None:
    size = math.prod(profile.max) * tensor.itemsize
    if size > MAX_INPUT_BYTES:
        raise ModelError(
            f"Input {quote(tensor.name)} {show(profile.max)} takes {size / 1e9:,.1f} GB per inference.",
            why=f"At most {MAX_INPUT_BYTES / 1e9:.1f} GB are allowed; a damaged file often declares such sizes.",
            fix="Use a smaller shape, or correct the model's declared input.",
        )


def show(shape: Sequence[Dim]) -> str:
    """`[N, 3, 224, 224]`; `?` for an axis without a name."""
    return quote("[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]")
