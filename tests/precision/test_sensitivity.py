"""Which layers a precision hurts: against the same thing done the slow way, one graph per layer."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action import data, precision
from trt_action import model as models
from trt_action.errors import PrecisionError
from trt_action.evidence import Precision
from trt_action.precision import Recipe, sensitivity

node = helper.make_node


@pytest.fixture(scope="module")
def fragile(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    path = tmp_path_factory.mktemp("fragile") / "fragile.onnx"
    onnx.save(runpy.run_path(str(digits / "fragile.py"))["make"](onnx.load(digits / "model.onnx")), path)
    return models.load(path, label="fragile.onnx")


@pytest.fixture(scope="module")
def calibration(digits: Path, fragile: models.Model) -> data.Dataset:
    return data.load(
        "calibration.npz", fragile.info, origin="calibration", need_labels=False, limit=128, timeout=60, base_dir=digits
    )


def rank(
    model: models.Model, recipe: Recipe, samples: data.Dataset, folder: Path, seconds: float = 60
) -> tuple[precision.SensitiveLayer, ...]:
    return precision.rank(model, recipe, samples, folder, seconds=seconds, ranges=folder / "ranges.json")


def test_fragile_digits_are_the_same_function(digits: Path, fragile: models.Model) -> None:
    images = np.load(digits / "validation.npz")["image"]
    plain, outliers = (
        np.asarray(onnxruntime.InferenceSession(path).run(None, {"image": images})[0])
        for path in (digits / "model.onnx", fragile.path)
    )
    assert np.allclose(plain, outliers, rtol=1e-4, atol=1e-3)


def test_int8_is_hurt_where_the_outliers_are(fragile: models.Model, calibration: data.Dataset, tmp_path: Path) -> None:
    first, *others = rank(fragile, Recipe("int8"), calibration, tmp_path)
    assert (first.name, first.exclude) == ("conv4", ("conv4",))
    assert first.error is not None
    assert first.error > 0.9
    assert sorted(layer.name for layer in others) == ["classifier", "conv1", "conv2", "conv3", "conv5"]
    assert all(layer.measured and layer.error is not None and 0.0005 < layer.error < 0.02 for layer in others)
    assert [layer.error for layer in others] == sorted((layer.error or 0 for layer in others), reverse=True)
    again = rank(fragile, Recipe("int8"), calibration, tmp_path)
    assert again == (first, *others)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_the_error_of_a_layer_is_that_of_a_graph_with_it_alone(
    digits: Path, calibration: data.Dataset, tmp_path: Path, name: Precision
) -> None:
    model = models.load(digits / "model.onnx", label="model.onnx")
    ranked = rank(model, Recipe(name), calibration, tmp_path)
    names = [layer.name for layer in ranked]
    images = calibration.inputs["image"][:16]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference = np.asarray(onnxruntime.InferenceSession(model.path, options).run(None, {"image": images})[0])
    for layer in ranked:
        folder = tmp_path / layer.name
        folder.mkdir()
        others = tuple(other for other in names if other != layer.name)
        made = precision.prepare(model, Recipe(name, exclude_nodes=others), calibration, folder, timeout=60)
        answer = np.asarray(onnxruntime.InferenceSession(made.path, options).run(None, {"image": images})[0])
        alone = np.linalg.norm(answer - reference) / np.linalg.norm(reference)
        assert layer.error == pytest.approx(alone, rel=0.05)


def small(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loaded(proto: onnx.ModelProto, folder: Path) -> models.Model:
    onnx.save(proto, folder / "small.onnx")
    return models.load(folder / "small.onnx", label="small.onnx")


ONES = data.Dataset({"x": np.ones((8, 8), np.float32)}, None, "0" * 64, "calibration", 8)


def test_fp16_names_the_block_that_overflows(tmp_path: Path) -> None:
    """Only the second product leaves the range of float16; a block is a product and what follows it."""
    proto = small(
        node("MatMul", ["x", "eye"], ["a"], "first"),
        node("Relu", ["a"], ["b"], "relu"),
        node("MatMul", ["b", "large"], ["c"], "second"),
        node("Mul", ["c", "tiny"], ["d"], "back"),
        node("MatMul", ["d", "eye"], ["y"], "third"),
        eye=np.eye(8),
        large=np.eye(8) * 50_000 + 10_000,
        tiny=np.full(8, 1e-5),
    )
    first, *others = rank(loaded(proto, tmp_path), Recipe("fp16"), ONES, tmp_path)
    assert (first.name, first.exclude, first.error, first.measured) == ("second", ("second", "back"), None, True)
    assert {layer.name: layer.exclude for layer in others} == {"first": ("first", "relu"), "third": ("third",)}
    assert all(layer.error is not None and layer.error < 0.001 for layer in others)


def test_names_of_merged_nodes_are_those_of_the_model(tmp_path: Path) -> None:
    """MatMul + Add becomes a Gemm under another name; what is listed has to fit `exclude-nodes`."""
    proto = small(
        node("MatMul", ["x", "w"], ["a"], "product"),
        node("Add", ["a", "bias"], ["y"], "add"),
        w=np.random.default_rng(0).standard_normal((8, 8)),
        bias=np.ones(8),
    )
    model = loaded(proto, tmp_path)
    layers = rank(model, Recipe("int8"), ONES, tmp_path)
    assert [layer.exclude for layer in layers] == [("product",)]
    with pytest.raises(PrecisionError, match="not one of its compute nodes"):
        precision.prepare(model, Recipe("int8", exclude_nodes=layers[0].exclude), ONES, tmp_path, timeout=60)


def test_int4_looks_at_weights_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    proto = small(
        node("MatMul", ["x", "w"], ["a"], "stored"),
        node("Transpose", ["a"], ["t"], "turn"),
        node("MatMul", ["t", "a"], ["s"], "computed"),
        node("MatMul", ["a", "s"], ["y"], "computed2"),
        w=rng.standard_normal((8, 8)),
    )
    layers = rank(loaded(proto, tmp_path), Recipe("int4"), ONES, tmp_path)
    assert [layer.name for layer in layers] == ["stored"]


def test_excluded_layers_and_quantized_models_have_nothing_to_rank(
    fragile: models.Model, calibration: data.Dataset, tmp_path: Path
) -> None:
    some = rank(fragile, Recipe("int8", exclude_nodes=("conv*",)), calibration, tmp_path)
    assert [layer.name for layer in some] == ["classifier"]
    (tmp_path / "q").mkdir()
    made = precision.prepare(fragile, Recipe("int8"), calibration, tmp_path / "q", timeout=60)
    assert rank(models.load(made.path, label="q.onnx"), Recipe("int8"), calibration, tmp_path) == ()


def test_layers_without_time_come_last_and_say_so(
    fragile: models.Model, calibration: data.Dataset, tmp_path: Path
) -> None:
    """What the child does, with its deadline at once."""
    calibration.save(tmp_path / "samples.npz")
    request = {
        "model": str(fragile.path),
        "info": fragile.info.model_dump(),
        "recipe": Recipe("int8").crossing(),
        "calibration": str(tmp_path / "samples.npz"),
        "ranges": str(tmp_path / "ranges.json"),
        "out_dir": str(tmp_path),
        "results": True,
        "seconds": 0.0,
    }
    ranked = sensitivity.rank(request, lambda *_: None)
    assert [one["name"] for one in ranked] == ["conv1", "conv2", "conv3", "conv4", "conv5", "classifier"]
    assert not any(one["measured"] for one in ranked)
