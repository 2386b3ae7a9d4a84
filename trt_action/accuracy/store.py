"""Arrays on disk in chunks: what crosses between this process and an inference child.

A segmentation model's outputs over a validation set do not fit in memory, so feeds and outputs are written and read
batch by batch. One raw file per name and one `index.json`. File names are counted, never taken from the model.
Standard library and numpy only: the child imports it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from trt_action.engine.backend import Array, numpy_dtype
from trt_action.errors import StorageError

_INDEX = "index.json"


class Writer:
    """Appends chunks by name. Use as a context manager: leaving it without an error writes the index.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._index: dict[str, dict[str, Any]] = {}
        with _storage(folder):
            folder.mkdir(parents=True)

    def append(self, name: str, chunk: Array) -> None:
        """Add one chunk, any shape; the dtype of a name must stay the same."""
        with _storage(self._folder):
            if name not in self._files:
                file = f"{len(self._files)}.bin"
                self._files[name] = (self._folder / file).open("xb")
                self._index[name] = {"file": file, "dtype": chunk.dtype.name, "shapes": []}
            self._files[name].write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
            self._index[name]["shapes"].append(list(chunk.shape))

    def close(self) -> None:
        with _storage(self._folder):
            for file in self._files.values():
                file.close()
            (self._folder / _INDEX).write_text(json.dumps(self._index))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is None:
            self.close()
            return
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()


class Store:
    """Reads what a `Writer` wrote.

    Raises:
        StorageError: a file is missing or shorter than its index says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _storage(folder, "read"):
            self._index: Mapping[str, dict[str, Any]] = json.loads((folder / _INDEX).read_text())

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the first chunk of each."""
        return tuple(self._index)

    def dtype(self, name: str) -> np.dtype[Any]:
        return numpy_dtype(self._index[name]["dtype"])

    def shapes(self, name: str) -> list[tuple[int, ...]]:
        """Shape of each chunk."""
        return [tuple(shape) for shape in self._index[name]["shapes"]]

    def chunks(self, name: str) -> Iterator[Array]:
        """The chunks in the order they were written, one at a time in memory."""
        dtype = self.dtype(name)
        with _storage(self._folder, "read"), (self._folder / self._index[name]["file"]).open("rb") as file:
            for shape in self.shapes(name):
                data = file.read(math.prod(shape) * dtype.itemsize)
                if len(data) != math.prod(shape) * dtype.itemsize:
                    raise StorageError(f"A stored chunk of `{name}` in `{self._folder}` is cut short.")
                yield np.frombuffer(data, dtype).reshape(shape)

    def whole(self, name: str) -> Array | None:
        """All chunks along axis 0; None if their other axes differ."""
        shapes = self.shapes(name)
        if not shapes or any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
            return None
        return np.concatenate(list(self.chunks(name)))


@contextlib.contextmanager
def _storage(folder: Path, verb: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"`{folder}` cannot be {verb}: {error.strerror or error}.",
            why="Outputs of every compared engine are kept on disk while accuracy is checked.",
            fix="Free space (`df -h`), point TMPDIR to a larger disk, or use fewer validation samples.",
        ) from error
