"""`config.pbtxt`, read back with Triton's own message type."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from tests.report import samples
from trt_action.errors import SettingsError
from trt_action.evidence import ModelInfo, ShapeRange, TensorInfo, ValueRange
from trt_action.publish import triton


def model(
    inputs: dict[str, list[int | str | None]],
    outputs: dict[str, list[int | str | None]],
    shapes: dict[str, tuple[list[int], list[int]]],
    dtype: str = "float32",
) -> ModelInfo:
    return samples.model(
        inputs=[TensorInfo(name=name, dtype=dtype, shape=shape) for name, shape in inputs.items()],
        outputs=[TensorInfo(name=name, dtype=dtype, shape=shape) for name, shape in outputs.items()],
        shapes={name: ShapeRange(min=low, opt=low, max=high) for name, (low, high) in shapes.items()},
    )


def read(info: ModelInfo, backend: str = "tensorrt", name: str = "m", on_gpu: bool = True) -> Any:
    text = triton.config(info, name=name, backend=backend, engine_file="model.plan", on_gpu=on_gpu)
    return text_format.Parse(text, model_config_pb2.ModelConfig())


N = "batch"


@pytest.mark.parametrize(
    ("info", "backend", "batch", "input_dims", "output_dims"),
    [
        (model({"x": [N, 3, 8]}, {"y": [N, 10]}, {"x": ([1, 3, 8], [64, 3, 8])}), "tensorrt", 64, [3, 8], [10]),
        (model({"x": [N, 3, 8]}, {"y": [N, 10]}, {"x": ([8, 3, 8], [8, 3, 8])}), "tensorrt", 0, [-1, 3, 8], [-1, 10]),
        (model({"x": [N, 3, 8]}, {"y": [N, 10]}, {"x": ([8, 3, 8], [8, 3, 8])}), "onnxruntime", 8, [3, 8], [10]),
        (model({"x": [1, 3, 8]}, {"y": [1, 10]}, {"x": ([1, 3, 8], [1, 3, 8])}), "tensorrt", 0, [1, 3, 8], [1, 10]),
        (model({"x": [N, "t"]}, {"y": ["t", 10]}, {"x": ([1, 1], [8, 9])}), "tensorrt", 0, [-1, -1], [-1, 10]),
        (model({"x": [N, "t"]}, {"y": [N, "t", 10]}, {"x": ([1, 1], [8, 9])}), "tensorrt", 8, [-1], [-1, 10]),
        (model({"x": [N]}, {"y": [N]}, {"x": ([1], [8])}), "tensorrt", 8, [1], [1]),
        (model({"x": [N, 2]}, {"y": []}, {"x": ([1, 2], [8, 2])}), "tensorrt", 0, [-1, 2], [1]),
    ],
)
def test_batch_and_dimensions(
    info: ModelInfo, backend: str, batch: int, input_dims: list[int], output_dims: list[int]
) -> None:
    found = read(info, backend)
    assert found.max_batch_size == batch
    assert list(found.input[0].dims) == input_dims
    assert list(found.output[0].dims) == output_dims
    assert found.platform == triton.PLATFORMS[backend]
    assert found.default_model_filename == "model.plan"


def test_inputs_that_hold_sizes_are_marked_for_plans_and_never_batched() -> None:
    info = model({"x": [N, 8], "size": [N]}, {"y": [N, "t"]}, {"x": ([1, 8], [64, 8]), "size": ([1], [2])})
    assert read(info).max_batch_size == 2
    shapes = {
        **info.shapes,
        "size": info.shapes["size"].model_copy(update={"values": ValueRange(min=[1, 1], opt=[2, 4], max=[8, 8])}),
    }
    info = info.model_copy(update={"shapes": shapes})
    found = read(info)
    assert found.max_batch_size == 0
    assert [tensor.is_shape_tensor for tensor in found.input] == [False, True]
    found = read(info, "onnxruntime", on_gpu=False)
    assert found.max_batch_size == 0
    assert not any(tensor.is_shape_tensor for tensor in found.input)


def test_a_scalar_per_row_is_reshaped() -> None:
    found = read(model({"x": [N]}, {"y": [N]}, {"x": ([1], [8])}))
    assert found.input[0].HasField("reshape")
    assert list(found.input[0].reshape.shape) == []


def test_a_cpu_engine_asks_for_no_gpu_and_no_second_optimisation() -> None:
    found = read(samples.model(), "onnxruntime", on_gpu=False)
    assert found.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert found.optimization.graph.level == -1


@given(st.text(max_size=60))
def test_hostile_names_stay_names(name: str) -> None:
    info = model({name: [N, 2]}, {f"{name}'": [N, 2]}, {name: ([1, 2], [8, 2])})
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    found = read(info, name=name)
    assert (found.name, found.input[0].name, found.output[0].name) == (name, name, f"{name}'")
    assert len(found.input) == len(found.output) == 1


@pytest.mark.parametrize(("backend", "dtype"), [("tensorrt-rtx", "float32"), ("onnxruntime", "complex64")])
def test_what_triton_cannot_serve_is_refused(backend: str, dtype: str) -> None:
    with pytest.raises(SettingsError):
        read(model({"x": [N]}, {"y": [N]}, {"x": ([1], [8])}, dtype), backend)
