"""The stage as the pipeline calls it: real models, in a child process."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action import data, precision
from trt_action import model as models
from trt_action.errors import PrecisionError, SettingsError, StorageError, TrtActionError
from trt_action.evidence import Precision
from trt_action.precision import Recipe

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def head(digits: Path) -> models.Model:
    return models.load(digits / "model.onnx", label="model.onnx")


@pytest.fixture(scope="module")
def calibration(digits: Path, head: models.Model) -> data.Dataset:
    return data.load(
        "calibration.npz", head.info, origin="calibration", need_labels=False, limit=128, timeout=60, base_dir=digits
    )


def run(path: Path, images: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(path, options).run(None, {"image": images})[0])


@pytest.mark.parametrize(
    ("recipe", "largest_error", "share_of_bytes", "quantize_nodes"),
    [
        (Recipe("fp32"), 0.0, 1.01, 0),
        (Recipe("fp16"), 0.0006, 0.51, 0),
        (Recipe("int8"), 0.018, 0.27, 30),
        (Recipe("int8", calibration_method="percentile"), 0.018, 0.27, 30),
    ],
    ids=["fp32", "fp16", "int8-minmax", "int8-percentile"],
)
def test_digits_in_every_precision(
    digits: Path,
    head: models.Model,
    calibration: data.Dataset,
    tmp_path: Path,
    recipe: Recipe,
    largest_error: float,
    share_of_bytes: float,
    quantize_nodes: int,
) -> None:
    told: list[str] = []
    made = precision.prepare(
        head, recipe, calibration, tmp_path, timeout=120, progress=lambda text, _: told.append(text)
    )
    assert made.proof.nodes == {recipe.precision: 6}
    assert made.proof.flop_share == 1.0
    assert made.proof.weight_share > 0.99
    assert made.proof.quantize_nodes == quantize_nodes
    assert made.path.stat().st_size < share_of_bytes * head.path.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prepared.onnx"]
    assert "checking the prepared model" in told
    with np.load(digits / "validation.npz") as validation:
        reference, answer = (run(path, validation["image"]) for path in (head.path, made.path))
        assert np.linalg.norm(answer - reference) <= largest_error * np.linalg.norm(reference)
        assert (answer.argmax(axis=1) == validation["labels"]).mean() >= 0.97


def test_digits_in_bf16(digits: Path, head: models.Model, tmp_path: Path) -> None:
    """ONNX Runtime's CPU has no bfloat16: the onnx package's own evaluator computes a few images."""
    from onnx.reference import ReferenceEvaluator

    made = precision.prepare(head, Recipe("bf16"), None, tmp_path, timeout=120)
    assert made.proof.nodes == {"bf16": 6}
    with np.load(digits / "validation.npz") as validation:
        images = validation["image"][:4]
    answer = np.asarray(ReferenceEvaluator(str(made.path)).run(["logits"], {"image": images})[0])  # type: ignore[index]
    assert answer.dtype == np.float32
    reference = run(head.path, images)
    assert np.linalg.norm(answer - reference) <= 0.02 * np.linalg.norm(reference)


@pytest.mark.parametrize("recipe", [Recipe("fp16"), Recipe("int8"), Recipe("int8", calibration_method="percentile")])
def test_the_same_bytes_from_another_process(
    head: models.Model, calibration: data.Dataset, tmp_path: Path, recipe: Recipe
) -> None:
    """Also with another hash seed in the caller and another folder."""
    first = precision.prepare(head, recipe, calibration, tmp_path, timeout=120).path.read_bytes()
    calibration.save(tmp_path / "calibration.npz")
    script = f"""
        from pathlib import Path
        from trt_action import data, model, precision
        head = model.load(Path({str(head.path)!r}), label="elsewhere")
        recipe = precision.Recipe({recipe.precision!r}, calibration_method={recipe.calibration_method!r})
        out = Path({str(tmp_path)!r}) / "second"
        out.mkdir()
        saved = data.load_saved(Path({str(tmp_path)!r}) / "calibration.npz")
        print(precision.prepare(head, recipe, saved, out, timeout=120).path)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert hashlib.sha256(Path(done.stdout.strip()).read_bytes()).digest() == hashlib.sha256(first).digest()


def test_fewer_calibration_samples_change_the_ranges(
    head: models.Model, calibration: data.Dataset, tmp_path: Path
) -> None:
    few, all_of_them = (
        precision.prepare(
            head, Recipe("int8", calibration_samples=n), calibration, tmp_path, timeout=120
        ).path.read_bytes()
        for n in (2, 128)
    )
    assert few != all_of_them


def test_int8_without_calibration_data_is_refused(head: models.Model, tmp_path: Path) -> None:
    """A question to the user (exit code 2), before anything is built: nothing is folded, nothing written."""
    told: list[str] = []
    with pytest.raises(SettingsError, match="without `calibration-data`") as caught:
        precision.prepare(head, Recipe("int8"), None, tmp_path, timeout=120, progress=lambda text, _: told.append(text))
    assert "Q/DQ" in caught.value.what
    assert caught.value.why
    assert "`calibration-data`" in caught.value.fix
    assert told == ["reading the model"]
    assert not list(tmp_path.iterdir())


def test_a_quantized_model_is_kept_and_needs_no_data(
    head: models.Model, calibration: data.Dataset, tmp_path: Path
) -> None:
    made = precision.prepare(head, Recipe("int8"), calibration, tmp_path, timeout=120)
    again = models.load(made.path, label="quantized.onnx")
    (tmp_path / "again").mkdir()
    kept = precision.prepare(again, Recipe("int8"), None, tmp_path / "again", timeout=120)
    assert kept.path.read_bytes() == made.path.read_bytes()
    assert kept.proof.nodes == {"int8": 6}
    assert "came with its own Q/DQ" in kept.proof.note


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_excluded_nodes(head: models.Model, calibration: data.Dataset, tmp_path: Path, name: Precision) -> None:
    recipe = Recipe(name, exclude_nodes=("conv1", "class*"))
    made = precision.prepare(head, recipe, calibration, tmp_path, timeout=120)
    assert made.proof.nodes == {"fp32": 2, name: 4}
    assert made.proof.kept_high == ["conv1", "classifier"]
    assert made.proof.flop_share is not None
    assert 0.98 < made.proof.flop_share < 1


def test_everything_excluded_is_nothing_achieved(head: models.Model, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="not one of its compute nodes"):
        precision.prepare(head, Recipe("fp16", exclude_nodes=("*",)), None, tmp_path, timeout=120)


def test_an_unknown_node_crosses_the_process_with_its_neighbour(head: models.Model, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="`conf1`") as caught:
        precision.prepare(head, Recipe("fp16", exclude_nodes=("conf1",)), None, tmp_path, timeout=120)
    assert "`conv1`" in caught.value.why


def test_external_data_become_part_of_the_file(head: models.Model, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    onnx.save(onnx.load(head.path), source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    outside = models.load(source / "m.onnx", label="m.onnx")
    for name, model in (("inside", head), ("outside", outside)):
        (tmp_path / name).mkdir()
        precision.prepare(model, Recipe("fp16"), None, tmp_path / name, timeout=120)
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["prepared.onnx"]
    assert (tmp_path / "outside/prepared.onnx").read_bytes() == (tmp_path / "inside/prepared.onnx").read_bytes()


def test_notes_of_the_exporter_are_removed(head: models.Model, tmp_path: Path) -> None:
    """They hold paths of the exporting host, and would change the digest of an engine that computes the same."""
    talkative = onnx.load(head.path)
    talkative.doc_string = "/home/somebody/model.py"
    talkative.metadata_props.add(key="author", value="somebody")
    talkative.graph.node[0].metadata_props.add(key="stack", value="/home/somebody/layer.py")
    onnx.save(talkative, tmp_path / "talkative.onnx")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = precision.prepare(head, Recipe("fp32"), None, tmp_path / "a", timeout=120)
    model = models.load(tmp_path / "talkative.onnx", label="talkative.onnx")
    second = precision.prepare(model, Recipe("fp32"), None, tmp_path / "b", timeout=120)
    assert first.path.read_bytes() == second.path.read_bytes()


def test_a_killed_child_is_told_as_such(head: models.Model, calibration: data.Dataset, tmp_path: Path) -> None:
    """The parent kills it in the middle of the calibration, as the kernel does when memory runs out."""

    def kill(text: str, share: float | None) -> None:
        if text.startswith("calibrating"):
            children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=True)
            for pid in map(int, children.stdout.split()):
                command = Path(f"/proc/{pid}/cmdline")
                if command.exists() and b"trt_action.precision" in command.read_bytes():
                    os.kill(pid, signal.SIGKILL)

    with pytest.raises(TrtActionError, match="most likely for memory") as caught:
        precision.prepare(head, Recipe("int8"), calibration, tmp_path, timeout=120, progress=kill)
    assert caught.value.exit_code == 9
    assert not (tmp_path / "prepared.onnx").exists()


def test_a_time_limit(head: models.Model, calibration: data.Dataset, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="no answer within"):
        precision.prepare(head, Recipe("int8"), calibration, tmp_path, timeout=0.01)


def test_a_folder_that_is_not_there(head: models.Model, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        precision.prepare(head, Recipe("fp32"), None, tmp_path / "missing", timeout=120)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_a_full_disk(head: models.Model, calibration: data.Dataset, tmp_path: Path, name: Precision) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount refused: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(StorageError):
            precision.prepare(head, Recipe(name), calibration, tmp_path, timeout=120)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_words_of_a_library_become_an_error_with_the_step(tmp_path: Path) -> None:
    """An index outside of the table: the checker cannot see it, calibration runs into it."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "ids"], ["g"]), helper.make_node("MatMul", ["g", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "gather.onnx")
    model = models.load(tmp_path / "gather.onnx", label="gather.onnx", batch_size=2)
    arrays = {"ids": np.array([1, 2, 3, 99])}
    calibration = data.Dataset(arrays, None, "0" * 64, "calibration", 4)
    with pytest.raises(PrecisionError, match="failed while calibrating") as caught:
        precision.prepare(model, Recipe("int8"), calibration, tmp_path, timeout=120)
    assert "99" in caught.value.why


def test_recipes_count_only_what_decides() -> None:
    assert Recipe("fp32").digest == Recipe("fp32", calibration_samples=7, exclude_nodes=("a",)).digest
    assert Recipe("fp16").digest == Recipe("fp16", calibration_method="percentile", op_types=("Conv",)).digest
    assert Recipe("int8").digest == Recipe("int8", op_types=("Gemm", "MatMul", "Conv")).digest
    different = [
        Recipe("int8"),
        Recipe("fp16"),
        Recipe("int8", calibration_samples=7),
        Recipe("int8", calibration_method="percentile"),
        Recipe("int8", op_types=("Conv",)),
        Recipe("int8", exclude_nodes=("a",)),
    ]
    assert len({recipe.digest for recipe in different}) == len(different)
    assert {"onnx", "onnxruntime", "trt-action"} <= set(Recipe("int8").as_json()["toolchain"])
