"""Arrays in files: `.npz` and folders of `.npy`, read without pickle and within a stated memory limit.

The declared size of an array is compared with the limit and with the bytes that are there before any memory is taken
for it, so that a file of a few kilobytes cannot ask for terabytes. Format: numpy's NEP 1, versions 1.0 and 2.0.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import ml_dtypes
import numpy as np
import numpy.typing as npt

from trt_action import files
from trt_action.errors import DataError
from trt_action.inputs import LFS_HEAD, is_lfs_pointer, open_regular, quote

Array = npt.NDArray[Any]

MAX_BYTES = 8 << 30
"""Decoded bytes of all arrays of one data set. A choice: 14,000 images of 3 x 224 x 224 in float32."""

MAX_MEMBERS = 1_000
SUFFIX = ".npy"
SMALLEST_HEADER = 10
_CHUNK = 1 << 24
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # an encrypted member
    struct.error,
    OSError,
    TypeError,
)


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays uncompressed; the file is whole or absent. bfloat16 is stored as 2-byte void, as numpy does.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(name + SUFFIX)
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def load_npz(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """All arrays of an `.npz`, by name, in native byte order; 2-byte void comes back as bfloat16.

    Raises:
        DataError: not an `.npz`, damaged, pickled objects, or more than `max_bytes` when decoded.
        StorageError: the file may not be read.
    """
    arrays: dict[str, Array] = {}
    with _open(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) > MAX_MEMBERS:
                    raise DataError(f"{quote(path)} has {len(members)} arrays; at most {MAX_MEMBERS} are read.")
                for member in members:
                    name = member.filename.removesuffix(SUFFIX)
                    if name == member.filename or name in arrays:
                        raise _damaged(path, member.filename, "it is not a `.npy` array, or it is there twice")
                    with archive.open(member) as content:
                        arrays[name] = _read(content, member.file_size, max_bytes, path, name)
                    max_bytes -= arrays[name].nbytes
        except _UNREADABLE as error:
            raise _damaged(path, "", str(error) or type(error).__name__) from None
    return arrays


def load_folder(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """All `*.npy` of a folder (not of folders inside it), by file name without the suffix.

    Raises:
        DataError: none there, damaged, pickled objects, or more than `max_bytes` when decoded.
        StorageError: a file may not be read.
    """
    arrays: dict[str, Array] = {}
    for entry in sorted(path.glob("*" + SUFFIX))[: MAX_MEMBERS + 1]:
        with _open(entry) as file:
            size = entry.stat().st_size
            try:
                arrays[entry.stem] = _read(file, size, max_bytes, entry, "")
            except _UNREADABLE as error:
                raise _damaged(entry, "", str(error) or type(error).__name__) from None
        max_bytes -= arrays[entry.stem].nbytes
    if not arrays:
        raise DataError(
            f"The folder {quote(path)} holds no `.npy` file.",
            fix="Save one file per input, `<input>.npy`, and `labels.npy` beside them: `numpy.save(path, array)`.",
        )
    return arrays


def _open(path: Path) -> BinaryIO:
    file = open_regular(path, noun="data file", wrong=DataError)
    if is_lfs_pointer(file.read(len(LFS_HEAD))):
        file.close()
        raise DataError(
            f"{quote(path)} is a Git LFS pointer, not the data themselves.",
            fix="Run `git lfs pull`; in a workflow set `lfs: true` at actions/checkout.",
        )
    file.seek(0)
    return file


def _read(file: IO[bytes], size: int, max_bytes: int, path: Path, name: str) -> Array:
    """One array from a stream that holds `size` bytes."""
    shape, fortran, dtype = _header(file)
    _check_dtype(dtype, path, name)
    needed = math.prod(shape) * dtype.itemsize
    if needed > max_bytes:
        raise DataError(
            f"{_where(path, name)} declares {needed / 1e9:,.1f} GB; {max_bytes / 1e9:,.1f} GB are left of the limit.",
            why=f"A data set may take {MAX_BYTES / 1e9:.1f} GB in memory.",
            fix="Use fewer samples, or a smaller dtype where the model takes one.",
        )
    if needed > size - SMALLEST_HEADER:
        raise _damaged(path, name, f"it declares {needed} bytes of data and the file has {size}")
    flat = np.empty(math.prod(shape), dtype)
    if needed:
        _fill(file, flat.view(np.uint8).data)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    if dtype.kind == "V":
        array = array.view(ml_dtypes.bfloat16)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype); numpy parses the text of the header as a Python literal, and fails likewise."""
    version = np.lib.format.read_magic(file)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header is not a header ({type(error).__name__})") from None
    raise ValueError(f"version {version[0]}.{version[1]} of the format is for records, not for plain arrays")


def _check_dtype(dtype: np.dtype[Any], path: Path, name: str) -> None:
    if dtype.hasobject:
        raise DataError(
            f"{_where(path, name)} holds pickled Python objects; they are never loaded.",
            why="Unpickling runs code from the file. numpy makes object arrays of lists of unequal length.",
            fix="Store plain arrays of one shape and a numeric dtype.",
        )
    if dtype.kind not in "biuf" and not (dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None):
        raise DataError(
            f"{_where(path, name)} has dtype {quote(dtype)}; only booleans, integers and floats are data.",
            fix="Convert it before saving, e.g. text labels to class numbers.",
        )


def _fill(file: IO[bytes], target: memoryview) -> None:
    done = 0
    while done < len(target):
        chunk = file.read(min(_CHUNK, len(target) - done))
        if not chunk:
            raise EOFError(f"it ends after {done} of {len(target)} bytes")
        target[done : done + len(chunk)] = chunk
        done += len(chunk)


def _where(path: Path, name: str) -> str:
    return f"Array {quote(name)} of {quote(path)}" if name else quote(path)


def _damaged(path: Path, name: str, reason: str) -> DataError:
    return DataError(
        f"{_where(path, name)} cannot be read: {' '.join(reason.split())[:300]}.",
        why="The file is damaged, incomplete, or of another format.",
        fix="Write it again with `numpy.savez` (or `numpy.save` for one array) and numeric dtypes.",
    )
