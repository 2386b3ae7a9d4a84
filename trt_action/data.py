"""On which samples? Calibration and validation data from a user, or seeded synthetic inputs.

Forms: an `.npz` (one array per input, and `labels`), a folder of `.npy` (`<input>.npy`, `labels.npy`), or a generator
`file.py:function` (`user_code.py`; it may ask for `limit`). Nothing is ever unpickled.

**The sample axis.** Axis 0 of every array counts samples. Let r be the rank of the model's input:
an array of rank r belongs to an input with a batch axis: it is (N, *rest), and B rows of it make one inference, where
B is axis 0 of the measured shape; an array of rank r + 1 belongs to an input without one: it is (N, *shape), and one
inference takes one sample. Other ranks are refused. All other axes equal the measured shape (`opt`).
An input that holds sizes (its `values` are in `shapes`) has no batch axis; data that leave it out mean its `opt` values.

**Dtypes.** Floats are cast to the model's float type, integers to its integer type if every value fits; both are noted.
Nothing else is cast: bytes of an image are not turned into floats, because how to normalise them would be a guess.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trt_action import arrays as storage
from trt_action import files, samples, user_code
from trt_action.arrays import Array
from trt_action.errors import DataError
from trt_action.evidence import ModelInfo, ShapeRange, TensorInfo
from trt_action.inputs import quote

Origin = Literal["validation", "calibration", "synthetic"]


@dataclass(frozen=True)
class Dataset:
    """`n` samples. `inputs` by the model's input names and in its dtypes, `labels` of shape (n, …) or None.

    `sha256` is over what is used: for every array, sorted by name (labels last), its name, dtype and shape as JSON,
    `\\0`, and its bytes in C order, little-endian. It does not depend on the file's compression.
    """

    inputs: dict[str, Array]
    labels: Array | None
    sha256: str
    origin: Origin
    n: int
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write it where a child process can read it (`load_saved`).

        Raises:
            StorageError: the folder cannot be written or the disk is full.
        """
        arrays = {f"inputs/{name}": array for name, array in self.inputs.items()}
        if self.labels is not None:
            arrays[samples.LABELS] = self.labels
        about = json.dumps({"sha256": self.sha256, "origin": self.origin, "n": self.n, "notes": self.notes})
        storage.save_npz(path, {**arrays, "about": np.frombuffer(about.encode(), np.uint8)})


def load_saved(path: Path) -> Dataset:
    """What `Dataset.save` wrote.

    Raises:
        DataError: the file is damaged.
    """
    arrays = storage.load_npz(path, max_bytes=2 * storage.MAX_BYTES)
    about = json.loads(arrays.pop("about").tobytes())
    labels = arrays.pop(samples.LABELS, None)
    inputs = {name.removeprefix("inputs/"): array for name, array in arrays.items()}
    return Dataset(inputs, labels, about["sha256"], about["origin"], about["n"], tuple(about["notes"]))


def load(
    spec: str,
    info: ModelInfo,
    *,
    origin: Origin,
    need_labels: bool,
    limit: int | None,
    timeout: float,
    base_dir: Path,
) -> Dataset:
    """Read a user's data and check them against the model.

    Args:
        spec: path of an `.npz`, a folder of `.npy`, or `file.py:function`; relative to `base_dir`.
        limit: the first so many samples are used; None = all.
        timeout: seconds for a generator.

    Raises:
        DataError: unreadable, too large, or names, ranks, shapes, dtypes, values or lengths do not fit the model.
        MetricError: the generator failed.
        StorageError: a file may not be read.
    """
    arrays = _read(spec, limit, timeout, base_dir)
    labels = None if any(t.name == samples.LABELS for t in info.inputs) else arrays.pop(samples.LABELS, None)
    if labels is None and need_labels:
        raise DataError(
            f"{quote(spec)} has no `{samples.LABELS}`.",
            why="The task metric compares the model's answers with them.",
            fix=f"Add an array `{samples.LABELS}` with one entry per sample.",
        )
    named, notes = samples.by_input(arrays, info, spec)
    total = samples.count(named, labels, spec)
    used = min(total, limit or total)
    inputs: dict[str, Array] = {}
    for tensor in info.inputs:
        measured = info.shapes[tensor.name]
        if tensor.name not in named:
            inputs[tensor.name] = _sizes(tensor, measured, used)
            continue
        samples.check_shape(named[tensor.name], tensor, measured, spec)
        array, more = samples.cast(named[tensor.name][:used], tensor, spec)
        samples.check_finite(array, tensor.name, spec)
        if measured.values:
            samples.check_values(array, tensor.name, measured.values, spec)
        inputs[tensor.name] = np.ascontiguousarray(array).reshape(array.shape)
        notes += more
    samples.check_layout(inputs, info, spec)
    labels = None if labels is None else np.ascontiguousarray(labels[:used])
    return Dataset(inputs, labels, _digest(inputs, labels), origin, used, tuple(notes))


def synthetic(info: ModelInfo, n: int, seed: int) -> Dataset:
    """Seeded inputs at the measured shape; the same values for inputs of the same name, dtype and shape.

    float16/32/64 and bfloat16: standard normal. int8 and uint8: the whole range. Wider integers: 0 or 1, because they
    are mostly indices into a table (token ids) or masks, and every table with two rows has these; bool likewise.
    The first element along the last axis is 1 there, because a mask of zeros only makes softmax divide 0 by 0.
    Inputs that hold sizes have their `opt` values.
    """
    batched = batch_of(info) > 1
    inputs = {}
    for tensor in info.inputs:
        opt = info.shapes[tensor.name].opt
        rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
        if info.shapes[tensor.name].values:
            inputs[tensor.name] = _sizes(tensor, info.shapes[tensor.name], n)
        elif _has_batch_axis(info, tensor):
            inputs[tensor.name] = _random(rng, tensor.dtype, (n, *opt[1:]))
        elif batched:  # one value for all samples: they share each inference
            inputs[tensor.name] = np.repeat(_random(rng, tensor.dtype, (1, *opt)), n, axis=0)
        else:
            inputs[tensor.name] = _random(rng, tensor.dtype, (n, *opt))
    return Dataset(inputs, None, _digest(inputs, None), "synthetic", n)


def batch_of(info: ModelInfo) -> int:
    """Samples of one inference, by the model alone: axis 0 of the measured shape where an input leaves axis 0 open;
    else the common fixed axis 0 of all inputs (of rank 2 or more) and outputs; else 1. Inputs that hold sizes say nothing."""
    inputs = [tensor for tensor in info.inputs if not info.shapes[tensor.name].values]
    for tensor in inputs:
        if tensor.shape and not isinstance(tensor.shape[0], int):
            return info.shapes[tensor.name].opt[0]
    first = {tensor.shape[0] if len(tensor.shape) > 1 else None for tensor in inputs}
    first |= {tensor.shape[0] if tensor.shape else None for tensor in info.outputs}
    only = first.pop() if len(first) == 1 else None
    return only if isinstance(only, int) and only > 0 else 1


def batches(dataset: Dataset, info: ModelInfo) -> Iterator[tuple[dict[str, Array], int]]:
    """Feeds at the measured shape, and how many samples of each count. The last one is filled up by its last row.

    The data may have been read for another model (head's, where this is base): inputs that this one lacks are left out,
    and sizes that are not in the data have their `opt` values.
    """
    inputs = _inputs(dataset, info)
    size = _batch_size(inputs, info)
    for start in range(0, dataset.n, size):
        count = min(size, dataset.n - start)
        rows = np.minimum(np.arange(start, start + size), dataset.n - 1)
        yield {name: _feed(array, info, name, rows) for name, array in inputs.items()}, count


def example_feeds(info: ModelInfo, seed: int, dataset: Dataset | None) -> dict[str, Array]:
    """One batch at the measured shape for timing: the first samples of `dataset` for the inputs that it fits (the
    base may have others than head), synthetic values for the rest. Sizes are the `opt` ones, which the evidence names."""
    feeds = next(batches(synthetic(info, batch_of(info), seed), info))[0]
    if dataset is None:
        return feeds
    for tensor in info.inputs:
        array = dataset.inputs.get(tensor.name)
        measured = info.shapes[tensor.name]
        if array is None or measured.values:
            continue
        if array.dtype == feeds[tensor.name].dtype and samples.fits(array, measured):
            size = measured.opt[0] if samples.is_batched(array, info, tensor.name) else 1
            rows = np.minimum(np.arange(size), dataset.n - 1)
            feeds[tensor.name] = _feed(array, info, tensor.name, rows)
    return feeds


def save_feeds(feeds: Mapping[str, Array], path: Path) -> None:
    """Write feeds as `.npz` for a worker process.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    storage.save_npz(path, feeds)


def _read(spec: str, limit: int | None, timeout: float, base_dir: Path) -> dict[str, Array]:
    if user_code.is_spec(spec):
        with files.work_folder() as folder:
            out = folder / "returned.npz"
            arguments = {"limit": limit}
            answer = user_code.call(spec, arguments=arguments, out=out, timeout=timeout, base_dir=base_dir, limit=limit)
            return storage.load_npz(out) if answer["arrays"] else {}
    path = base_dir / spec
    if path.is_dir():
        return storage.load_folder(path)
    if path.suffix.lower() == ".npz" or not path.exists():
        return storage.load_npz(path)
    raise DataError(
        f"{quote(spec)} is not in a form that can be read.",
        why="Data are an `.npz`, a folder of `.npy`, or a generator `file.py:function`.",
        fix="Write it with `numpy.savez(path, **{'<input>': inputs, 'labels': labels})`.",
    )


def _inputs(dataset: Dataset, info: ModelInfo) -> dict[str, Array]:
    taken: dict[str, Array] = {}
    for tensor in info.inputs:
        if tensor.name in dataset.inputs:
            taken[tensor.name] = dataset.inputs[tensor.name]
        elif info.shapes[tensor.name].values:
            taken[tensor.name] = _sizes(tensor, info.shapes[tensor.name], dataset.n)
    return taken


def _batch_size(inputs: Mapping[str, Array], info: ModelInfo) -> int:
    return max((info.shapes[n].opt[0] for n, array in inputs.items() if samples.is_batched(array, info, n)), default=1)


def _feed(array: Array, info: ModelInfo, name: str, rows: Array) -> Array:
    chosen: Array = array[rows] if samples.is_batched(array, info, name) else array[rows[0]]
    return np.ascontiguousarray(chosen).reshape(chosen.shape)


def _has_batch_axis(info: ModelInfo, tensor: TensorInfo) -> bool:
    if not tensor.shape:
        return False
    if not isinstance(tensor.shape[0], int):
        return True
    # a fixed axis 0 counts if the whole model agrees on it, see batch_of
    fixed = all(t.shape and isinstance(t.shape[0], int) for t in info.inputs if not info.shapes[t.name].values)
    return fixed and tensor.shape[0] == batch_of(info) and len(tensor.shape) > 1


def _sizes(tensor: TensorInfo, measured: ShapeRange, n: int) -> Array:
    """The measured values of an input that holds sizes, for every sample."""
    opt = measured.values.opt if measured.values else []
    return np.broadcast_to(np.array(opt, tensor.dtype).reshape(measured.opt), (n, *measured.opt)).copy()


def _random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    target = samples.numpy_dtype(dtype)
    if samples.family(target) == "float":
        return rng.standard_normal(shape, np.float32).astype(target)
    if target.itemsize == 1 and target.kind != "b":
        limits = np.iinfo(target)
        return rng.integers(limits.min, limits.max, shape, dtype=target, endpoint=True)
    values = rng.integers(0, 2, shape).astype(target)
    if len(shape) > 1:
        values[..., 0] = 1
    return values


def _digest(inputs: Mapping[str, Array], labels: Array | None) -> str:
    digest = hashlib.sha256()
    named = [(name, inputs[name]) for name in sorted(inputs)]
    for name, array in [*named, *([(samples.LABELS, labels)] if labels is not None else [])]:
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\0")
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
