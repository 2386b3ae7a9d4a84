from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from trt_action.accuracy.store import Store, Writer
from trt_action.errors import StorageError


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_, np.uint8])
def test_chunks_come_back_as_they_were(tmp_path: Path, dtype: Any) -> None:
    chunks = [np.arange(6).reshape(2, 3).astype(dtype), np.zeros((0, 3), dtype), np.ones((1, 3), dtype)]
    with Writer(tmp_path / "s") as writer:
        for chunk in chunks:
            writer.append("a/../b", chunk)
            writer.append("scalar", chunk.sum(dtype=dtype))
    store = Store(tmp_path / "s")
    assert store.names == ("a/../b", "scalar")
    for got, want in zip(store.chunks("a/../b"), chunks, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    whole = store.whole("a/../b")
    assert whole is not None
    assert whole.shape == (3, 3)
    assert store.whole("scalar") is None
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["0.bin", "1.bin", "index.json"]


def test_shapes_that_change_from_chunk_to_chunk(tmp_path: Path) -> None:
    with Writer(tmp_path / "s") as writer:
        writer.append("boxes", np.ones((1, 3, 4)))
        writer.append("boxes", np.ones((1, 7, 4)))
    store = Store(tmp_path / "s")
    assert store.shapes("boxes") == [(1, 3, 4), (1, 7, 4)]
    assert store.whole("boxes") is None


def test_a_chunk_that_is_cut_short_is_named(tmp_path: Path) -> None:
    with Writer(tmp_path / "s") as writer:
        writer.append("a", np.ones(100))
    os.truncate(tmp_path / "s" / "0.bin", 10)
    with pytest.raises(StorageError, match="cut short"):
        list(Store(tmp_path / "s").chunks("a"))


def test_a_missing_store_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=os.strerror(errno.ENOENT)):
        Store(tmp_path / "none")


@pytest.mark.root
def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=False).returncode
    ):
        pytest.skip("needs root and the right to mount a small tmpfs")
    try:
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)) as caught:
            fill(tmp_path / "s")
        assert "TMPDIR" in caught.value.fix
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def fill(folder: Path) -> None:
    with Writer(folder) as writer:
        for _ in range(100):
            writer.append("a", np.ones(1000))
