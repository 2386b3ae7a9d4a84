"""The profile of a model: which shapes its inputs have when it is measured.

Rules, in this order, for every axis of every input:
1. the model fixes it: it stays, and `shapes` must agree;
2. `shapes` names it;
3. another input has an axis of the same symbolic name, and `shapes` gave that one a size: the same size;
4. it is axis 0: the batch axis, and `batch_size` is taken, or 1 with a note;
5. otherwise the user is asked. No size is ever guessed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
class Profile:
    """Shapes of one input; all three equal for a fixed shape."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def as_json(self) -> dict[str, list[int]]:
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}


def parse(shapes: Mapping[str, Any]) -> dict[str, Profile]:
    """The setting `shapes` as profiles; `min` and `max` default to `opt`.

    Raises:
        ModelError: not a list of positive integers, unknown keys, or not min ≤ opt ≤ max.
    """
    return {str(name): _profile(str(name), value) for name, value in shapes.items()}


def resolve(
    inputs: Sequence[Input], shapes: Mapping[str, Profile], batch_size: int | None
) -> tuple[dict[str, Profile], list[str]]:
    """A profile for every input, and a note for everything that was assumed.

    Raises:
        ModelError: an unknown name, a wrong rank, a fixed axis that differs, an axis that is still open.
    """
    _refuse_unknown(inputs, shapes)
    sizes = _symbols(inputs, shapes)
    profiles: dict[str, Profile] = {}
    notes: list[str] = []
    for tensor in inputs:
        given = shapes.get(tensor.name)
        if given is not None:
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
    if isinstance(value, Mapping):
        if unknown := [key for key in value if key not in ("min", "opt", "max")]:
            raise _malformed(name, f"{quote(unknown[0])} is not one of `min`, `opt`, `max`")
        if "opt" not in value:
            raise _malformed(name, "`opt`, the measured shape, is missing")
        opt = _shape(name, value["opt"])
        profile = Profile(_shape(name, value.get("min", opt)), opt, _shape(name, value.get("max", opt)))
    else:
        shape = _shape(name, value)
        profile = Profile(shape, shape, shape)
    if not len(profile.min) == len(profile.opt) == len(profile.max):
        raise _malformed(name, "`min`, `opt` and `max` differ in length")
    if not all(low <= mid <= high for low, mid, high in zip(profile.min, profile.opt, profile.max, strict=True)):
        raise _malformed(name, f"{profile.as_json()} does not keep min ≤ opt ≤ max in every axis")
    return profile


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
        fix='Write `{"input": [1, 3, 224, 224]}` or `{"input": {"min": […], "opt": […], "max": […]}}`.',
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
        if given is None or len(tensor.shape) != len(given.opt):
            continue
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, str):
                sizes.setdefault(dim, (given.min[axis], given.opt[axis], given.max[axis]))
    return sizes


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
