from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from trt_action import arrays, data
from trt_action.errors import DataError, MetricError, TrtActionError
from trt_action.evidence import ModelInfo, ShapeRange, TensorInfo, ValueRange

Shapes = dict[str, tuple[str, list[Any], list[int]]]
"""By input: dtype, declared shape, measured shape."""

IMAGE: Shapes = {"image": ("float32", ["N", 1, 2, 2], [4, 1, 2, 2])}
TEXT: Shapes = {"ids": ("int64", ["N", "S"], [2, 3]), "mask": ("int64", ["N", "S"], [2, 3])}
UNBATCHED: Shapes = {"x": ("float32", [2, 2], [2, 2])}


def model(inputs: Shapes, outputs: list[list[Any]] | None = None) -> ModelInfo:
    return ModelInfo(
        name="m",
        path="m.onnx",
        sha256="0" * 64,
        bytes=1,
        opset=21,
        parameters=1,
        inputs=[TensorInfo(name=n, dtype=dtype, shape=shape) for n, (dtype, shape, _) in inputs.items()],
        outputs=[TensorInfo(name=f"y{i}", dtype="float32", shape=s) for i, s in enumerate(outputs or [["N", 3]])],
        shapes={n: ShapeRange(min=opt, opt=opt, max=opt) for n, (_, _, opt) in inputs.items()},
    )


def load(path: Path, inputs: Shapes, **more: Any) -> data.Dataset:
    settings = {"origin": "validation", "need_labels": False, "limit": None, "timeout": 30.0, "base_dir": path.parent}
    return data.load(path.name, model(inputs), **{**settings, **more})


def saved(folder: Path, **named: Any) -> Path:
    np.savez(folder / "data.npz", **named)
    return folder / "data.npz"


def images(n: int, dtype: Any = np.float32) -> Any:
    return np.arange(n * 4).reshape(n, 1, 2, 2).astype(dtype)


def test_npz_and_folder_are_the_same_data(tmp_path: Path) -> None:
    labels = np.arange(6)
    plain = load(saved(tmp_path, image=images(6), labels=labels), IMAGE, need_labels=True)
    assert plain.n == 6
    assert plain.origin == "validation"
    assert plain.notes == ()
    assert plain.labels is not None
    assert plain.labels.tolist() == labels.tolist()
    np.savez_compressed(tmp_path / "small.npz", labels=labels, image=np.asfortranarray(images(6)))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder/image.npy", images(6).astype(">f4"))
    np.save(tmp_path / "folder/labels.npy", labels)
    (tmp_path / "folder/README").write_text("not data")
    assert load(tmp_path / "small.npz", IMAGE).sha256 == plain.sha256
    assert load(tmp_path / "folder", IMAGE).sha256 == plain.sha256
    assert load(saved(tmp_path, image=images(6), labels=labels + 1), IMAGE).sha256 != plain.sha256
    assert load(saved(tmp_path, image=images(6)), IMAGE).sha256 != plain.sha256


def resizing() -> ModelInfo:
    """`image` with a batch of 4 and `size`, which holds the two sizes of a Resize."""
    info = model({"size": ("int64", ["k"], [2]), **IMAGE})
    values = ValueRange(min=[1, 1], opt=[4, 6], max=[8, 8])
    return info.model_copy(
        update={"shapes": {**info.shapes, "size": info.shapes["size"].model_copy(update={"values": values})}}
    )


def test_inputs_that_hold_sizes_are_measured_at_their_values() -> None:
    info = resizing()
    assert data.batch_of(info) == 4
    synthetic = data.synthetic(info, 6, 0)
    assert synthetic.inputs["size"].tolist() == [[4, 6]] * 6
    feeds = data.example_feeds(info, 0, None)
    assert feeds["image"].shape == (4, 1, 2, 2)
    assert feeds["size"].tolist() == [4, 6]
    assert feeds["size"].dtype == np.int64
    assert [count for _, count in data.batches(synthetic, info)] == [4, 2]
    scalar = model({"limit": ("int32", [], [])})
    scalar.shapes["limit"] = ShapeRange(min=[], opt=[], max=[], values=ValueRange(min=[1], opt=[7], max=[9]))
    limit = data.example_feeds(scalar, 0, None)["limit"]
    assert limit.shape == ()
    assert (int(limit), str(limit.dtype)) == (7, "int32")


def test_sizes_of_the_data_win_and_missing_ones_are_the_measured(tmp_path: Path) -> None:
    info = resizing()
    settings: dict[str, Any] = {
        "origin": "validation",
        "need_labels": False,
        "limit": None,
        "timeout": 30.0,
        "base_dir": tmp_path,
    }
    alone = data.load(saved(tmp_path, anything=images(5)).name, info, **settings)
    assert alone.inputs["size"].tolist() == [[4, 6]] * 5
    given = data.load(saved(tmp_path, image=images(5), size=np.full((5, 2), 8)).name, info, **settings)
    assert next(data.batches(given, info))[0]["size"].tolist() == [8, 8]
    assert data.example_feeds(info, 0, given)["size"].tolist() == [4, 6]  # timed at what the evidence names
    for size, words in (
        (np.full((5, 2), 9), "holds the sizes [9, 9] in sample 0; `shapes` gives its values from [1, 1] to [8, 8]"),
        (np.array([[4, 4]] * 4 + [[0, 4]]), "sizes [0, 4] in sample 4"),
        (np.array([[4, 4]] * 4 + [[4, 5]]), "differs between samples"),
        (np.full(5, 4), "has the shape [5]; the model is measured at [2]"),
    ):
        with pytest.raises(DataError) as caught:
            data.load(saved(tmp_path, image=images(5), size=size).name, info, **settings)
        assert words in caught.value.what


def test_data_of_head_feed_a_base_with_other_inputs(tmp_path: Path) -> None:
    resized, plain = resizing(), model(IMAGE)
    both: Shapes = {**IMAGE, "size": ("int64", [2], [2])}
    of_head = load(saved(tmp_path, image=images(5), size=np.full((5, 2), 8)), both)
    feeds, count = next(data.batches(of_head, plain))
    assert (list(feeds), count) == (["image"], 4)
    of_head = load(saved(tmp_path, image=images(5)), IMAGE)
    feeds, count = next(data.batches(of_head, resized))
    assert (feeds["size"].tolist(), count) == ([4, 6], 4)


def test_limit_is_part_of_the_identity(tmp_path: Path) -> None:
    six, four = images(6), images(6)[:4]
    limited = load(saved(tmp_path, image=six, labels=np.arange(6)), IMAGE, limit=4)
    assert (limited.n, len(limited.inputs["image"])) == (4, 4)
    assert limited.sha256 == load(saved(tmp_path, image=four, labels=np.arange(4)), IMAGE).sha256


def test_generator(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def endless(limit):\n"
        "    while True:\n"
        "        yield {'image': np.ones((3, 1, 2, 2), np.float32), 'labels': [0, 1, 2]}\n"
        "def bad():\n    return 5\n"
    )
    found = load(tmp_path / "mine.py:endless", IMAGE, limit=7)
    assert found.n == 7
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(DataError, match="has no array for the input"):
        load(tmp_path / "mine.py:bad", IMAGE)
    with pytest.raises(MetricError):
        load(tmp_path / "mine.py:nope", IMAGE)


def test_one_array_for_one_input_needs_no_name(tmp_path: Path) -> None:
    found = load(saved(tmp_path, arr_0=images(2)), IMAGE)
    assert list(found.inputs) == ["image"]
    assert "`arr_0`" in found.notes[0]


@pytest.mark.parametrize(
    ("inputs", "named", "words"),
    [
        (IMAGE, {"image": images(2), "labels": np.arange(3)}, "`labels` of `data.npz` has 3 samples; `image` has 2"),
        (IMAGE, {"image": images(2), "x": images(2)}, "the model has no such input"),
        (IMAGE, {"imag": images(2), "x": images(2)}, "Rename `imag` to `image`"),
        (IMAGE, {}, "has no array for the input `image`"),
        (IMAGE, {"image": images(0)}, "has no samples"),
        (IMAGE, {"image": np.float32(1)}, "is a single number"),
        (IMAGE, {"image": images(2)[0]}, "the shape [1, 2, 2]"),
        (IMAGE, {"image": images(2)[..., :1]}, "the shape [2, 1, 2, 1]"),
        (IMAGE, {"image": images(2, np.uint8)}, "it is not converted for you".capitalize()),
        (IMAGE, {"image": images(2, np.int64)}, "has dtype int64; the model takes float32"),
        (IMAGE, {"image": images(2, np.float64) * 1e300}, "NaN or infinity (first in sample 0)"),
        (IMAGE, {"image": np.where(images(3) == 9, np.nan, images(3))}, "NaN or infinity (first in sample 2)"),
        (IMAGE, {"image": images(2, np.complex64)}, "dtype `complex64`"),
        (IMAGE, {"image": np.array(["a", "b"])}, "dtype `<U1`"),
        (TEXT, {"ids": np.ones((2, 3), np.int64), "mask": np.ones((2, 3), bool)}, "has dtype bool"),
        (TEXT, {"ids": np.full((2, 3), 2**63, np.uint64), "mask": np.ones((2, 3), np.int64)}, "do not fit"),
        (TEXT, {"ids": np.ones((2, 3), np.int64), "mask": np.ones((1, 3), np.int64)}, "has 1 samples"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, inputs: Shapes, named: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(saved(tmp_path, **named), inputs)
    assert words in f"{caught.value.what} {caught.value.why} {caught.value.fix}"


def test_labels_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no `labels`"):
        load(saved(tmp_path, image=images(2)), IMAGE, need_labels=True)


def test_casts_within_a_kind_are_noted(tmp_path: Path) -> None:
    found = load(saved(tmp_path, image=images(2, np.float64)), IMAGE)
    assert found.inputs["image"].dtype == np.float32
    assert "cast from float64 to float32" in found.notes[0]
    found = load(saved(tmp_path, ids=np.ones((2, 3), np.int32), mask=np.ones((2, 3), np.uint8)), TEXT)
    assert {array.dtype for array in found.inputs.values()} == {np.dtype(np.int64)}
    assert len(found.notes) == 2


def test_bfloat16_survives_files(tmp_path: Path) -> None:
    inputs: Shapes = {"x": ("bfloat16", ["N", 2], [1, 2])}
    array = np.array([[1, 2], [3, 4]], ml_dtypes.bfloat16)
    found = load(saved(tmp_path, x=array), inputs)
    found.save(tmp_path / "saved.npz")
    again = data.load_saved(tmp_path / "saved.npz")
    assert again.inputs["x"].dtype == ml_dtypes.bfloat16
    assert again.inputs["x"].tolist() == array.tolist()


def test_save_and_load(tmp_path: Path) -> None:
    inputs: Shapes = {"file": ("float32", ["N", 1], [1, 1]), "a/b": ("int64", ["N"], [1])}
    found = data.synthetic(model(inputs), 5, 0)
    found.save(tmp_path / "saved.npz")
    again = data.load_saved(tmp_path / "saved.npz")
    assert (again.sha256, again.n, again.origin, again.labels) == (found.sha256, 5, "synthetic", None)
    for name, array in found.inputs.items():
        assert again.inputs[name].tolist() == array.tolist()


# Files that are not what they say -------------------------------------------------------------------------------


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n"), "declares 4,000.0 GB"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000,)}\n", b"abc"), "declares 4000 bytes"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n"), "cannot be read"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"x"), "pickled Python objects"),
        (npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}\n", b"abcd"), "dtype"),
        (npy(b"__import__('os').system('touch /tmp/x')\n"), "cannot be read"),
        (npy(b"(" * 900 + b"\n"), "cannot be read"),
        (b"\x93NUMPY\x03\x00", "cannot be read"),
        (b"", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_hostile_npy(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/image.npy").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "folder", IMAGE)
    assert words in caught.value.what
    if b"git-lfs" not in content:
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr("image.npy", content)
        with pytest.raises(DataError):
            load(tmp_path / "data.npz", IMAGE)


def test_zip_bomb(tmp_path: Path) -> None:
    """A hundred kilobytes that unpack to a gigabyte are not unpacked above the limit, nor if they are fewer."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000,)}\n"
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image.npy", "w") as file:
        file.write(npy(header))
        for _ in range(100):
            file.write(bytes(1_000_000))
    with pytest.raises(DataError, match="declares"):
        arrays.load_npz(tmp_path / "data.npz", max_bytes=10**8)
    with pytest.raises(DataError, match="and the file has"):
        arrays.load_npz(tmp_path / "data.npz")


def test_damaged_archives(tmp_path: Path) -> None:
    content = saved(tmp_path, image=images(50)).read_bytes()
    path = tmp_path / "data.npz"
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(DataError):
            load(path, IMAGE)
    for place in range(0, len(content), 7):  # a flipped bit is found by the checksum, or it changes nothing
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            load(path, IMAGE)
        except TrtActionError as error:
            assert error.what  # noqa: PT017 - either way is fine, a traceback is not


def test_what_is_not_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("1,2")
    for name, words in {
        "pipe.npz": "a pipe",
        "empty": "holds no `.npy`",
        "table.csv": "not in a form that can be read",
        "nothing.npz": "does not exist",
        "a\0b": "cannot be opened",
    }.items():
        with pytest.raises(DataError) as caught:
            data.load(
                name, model(IMAGE), origin="validation", need_labels=False, limit=None, timeout=5, base_dir=tmp_path
            )
        assert words in caught.value.what


# Batches ------------------------------------------------------------------------------------------------------


def test_batches_are_filled_up_with_the_last_row(tmp_path: Path) -> None:
    found = load(saved(tmp_path, image=images(6)), IMAGE)
    feeds = list(data.batches(found, model(IMAGE)))
    assert [count for _, count in feeds] == [4, 2]
    assert all(feed["image"].shape == (4, 1, 2, 2) for feed, _ in feeds)
    assert feeds[1][0]["image"][:, 0, 0, 0].tolist() == [16, 20, 20, 20]


def test_an_input_without_a_batch_axis(tmp_path: Path) -> None:
    found = load(saved(tmp_path, x=np.arange(12, dtype=np.float32).reshape(3, 2, 2)), UNBATCHED)
    feeds = list(data.batches(found, model(UNBATCHED)))
    assert [feed["x"].tolist() for feed, _ in feeds] == found.inputs["x"].tolist()
    assert [count for _, count in feeds] == [1, 1, 1]


def test_inputs_with_and_without_a_batch_axis(tmp_path: Path) -> None:
    inputs: Shapes = {"x": ("float32", ["N", 2], [4, 2]), "scale": ("float32", [], [])}
    x = np.zeros((4, 2), np.float32)
    same = load(saved(tmp_path, x=x, scale=np.ones(4, np.float32)), inputs)
    feed, count = next(data.batches(same, model(inputs)))
    assert (feed["x"].shape, feed["scale"].shape, count) == ((4, 2), (), 4)
    with pytest.raises(DataError, match="differs between samples"):
        load(saved(tmp_path, x=x, scale=np.arange(4, dtype=np.float32)), inputs)
    feeds = list(data.batches(data.synthetic(model(inputs), 5, 0), model(inputs)))
    assert [count for _, count in feeds] == [4, 1]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        (IMAGE, [["N", 3]], 4),
        ({"x": ("float32", [8, 3], [8, 3])}, [[8, 2]], 8),
        ({"x": ("float32", [8, 3], [8, 3])}, [[3]], 1),
        ({"x": ("float32", [8], [8])}, [[8]], 1),
        ({"x": ("float32", [], [])}, [[]], 1),
        ({"x": ("float32", [8, 3], [8, 3]), "y": ("float32", [8, 1], [8, 1])}, [[8, 2], [8]], 8),
        ({"x": ("float32", [8, 3], [8, 3]), "y": ("float32", [2, 1], [2, 1])}, [[8, 2]], 1),
    ],
)
def test_samples_of_one_inference(inputs: Shapes, outputs: list[list[Any]], expected: int) -> None:
    info = model(inputs, outputs)
    assert data.batch_of(info) == expected
    feeds, count = next(data.batches(data.synthetic(info, 20, 0), info))
    assert count == expected
    for name, (_, _, opt) in inputs.items():
        assert list(feeds[name].shape) == opt


def test_synthetic_values() -> None:
    kinds = ("float16", "float32", "float64", "bfloat16", "bool", "int8", "uint8", "int32", "int64", "uint16")
    inputs: Shapes = {kind: (kind, ["N", 50], [1, 50]) for kind in kinds}
    one, two = data.synthetic(model(inputs), 40, 7), data.synthetic(model(inputs), 40, 7)
    assert one.sha256 == two.sha256 != data.synthetic(model(inputs), 40, 8).sha256
    assert abs(float(one.inputs["float32"].mean())) < 0.1
    assert abs(float(one.inputs["float32"].std()) - 1) < 0.1
    assert (one.inputs["uint8"].min(), one.inputs["uint8"].max()) == (0, 255)
    for kind in ("bool", "int32", "int64", "uint16"):
        assert set(np.unique(one.inputs[kind]).tolist()) == {0, 1}
        assert one.inputs[kind][:, 0].all()  # a mask of zeros only would divide 0 by 0
    for kind, array in one.inputs.items():
        assert array.dtype.name == kind


def test_example_feeds_agree_between_head_and_base(tmp_path: Path) -> None:
    head = model({**IMAGE, "extra": ("float32", ["N", 2], [4, 2])})
    base = model(IMAGE)
    assert np.array_equal(data.example_feeds(head, 1, None)["image"], data.example_feeds(base, 1, None)["image"])
    found = load(saved(tmp_path, image=images(3)), IMAGE)
    feeds = data.example_feeds(head, 1, found)
    assert feeds["image"][:, 0, 0, 0].tolist() == [0, 4, 8, 8]
    assert feeds["extra"].shape == (4, 2)
    other = model({"image": ("float32", ["N", 1, 3, 3], [4, 1, 3, 3])})
    assert data.example_feeds(other, 1, found)["image"].shape == (4, 1, 3, 3)
    data.save_feeds(feeds, tmp_path / "feeds.npz")
    assert arrays.load_npz(tmp_path / "feeds.npz").keys() == feeds.keys()
