"""`config.pbtxt` of Triton Inference Server for a version folder. Pure.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md: with
`max_batch_size` above 0 the dimensions leave out the batch, which every input and output then has first and open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trt_action.errors import SettingsError
from trt_action.evidence import ModelInfo, TensorInfo
from trt_action.inputs import quote

PLATFORMS: Mapping[str, str] = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
"""What Triton can load; TensorRT for RTX is not among its backends."""

_TYPES: Mapping[str, str] = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "string": "TYPE_STRING",
}


def config(model: ModelInfo, *, name: str, backend: str, engine_file: str, on_gpu: bool) -> str:
    """The model's configuration as protobuf text.

    Args:
        name: of the model's folder in the repository.
        engine_file: name of the engine in the version folder.

    Raises:
        SettingsError: Triton cannot serve this backend or one of the model's types.
    """
    platform = PLATFORMS.get(backend)
    if platform is None:
        raise SettingsError(
            f"Triton cannot serve an engine of {quote(backend)}.",
            fix=f"Use `variant: {backend}`, or build with one of: {', '.join(PLATFORMS)}.",
        )
    batch = max_batch_size(model, backend)
    lines = [
        f"name: {_text(name)}",
        f"platform: {_text(platform)}",
        f"default_model_filename: {_text(engine_file)}",
        f"max_batch_size: {batch}",
        *_tensors("input", model.inputs, batch, _holding_sizes(model) if platform == PLATFORMS["tensorrt"] else ()),
        *_tensors("output", model.outputs, batch),
        f"instance_group [ {{ kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }} ]",
    ]
    if backend == "onnxruntime":
        lines.append("optimization { graph { level: -1 } }  # the engine has been through the optimiser")
    return "\n".join(lines) + "\n"


def max_batch_size(model: ModelInfo, backend: str) -> int:
    """The largest batch that Triton may form; 0: it takes shapes as they are, the batch included.

    Every input and output must begin with the same open axis, no input hold sizes (they are of a whole run), and a plan
    take every batch from 1 on.
    """
    firsts = {tensor.shape[0] if tensor.shape else 0 for tensor in (*model.inputs, *model.outputs)}
    if len(firsts) != 1 or isinstance(next(iter(firsts)), int):
        return 0
    shapes = [model.shapes[tensor.name] for tensor in model.inputs if tensor.name in model.shapes]
    if (
        any(shape.values for shape in shapes)
        or len(shapes) != len(model.inputs)
        or (backend == "tensorrt" and any(shape.min[0] > 1 for shape in shapes))
    ):
        return 0
    return min((shape.max[0] for shape in shapes), default=0)


def _holding_sizes(model: ModelInfo) -> tuple[str, ...]:
    """Inputs that a plan reads in the host's memory: Triton must be told which (`is_shape_tensor`), of plans only."""
    return tuple(name for name, shape in model.shapes.items() if shape.values)


def _tensors(kind: str, tensors: Sequence[TensorInfo], batch: int, on_host: Sequence[str] = ()) -> list[str]:
    return [f"{kind} [", ",\n".join(_tensor(tensor, batch, on_host) for tensor in tensors), "]"]


def _tensor(tensor: TensorInfo, batch: int, on_host: Sequence[str]) -> str:
    known = _TYPES.get(tensor.dtype)
    if known is None:
        raise SettingsError(
            f"Triton has no type for {quote(tensor.name)}, which is {quote(tensor.dtype)}.",
            fix="Cast it in the model, or publish another `variant`.",
        )
    sizes = [size if isinstance(size, int) else -1 for size in tensor.shape[1 if batch else 0 :]]
    scalar = not sizes
    dims = ", ".join(map(str, sizes or [1]))
    reshape = ", reshape: { shape: [ ] }" if scalar else ""
    marked = ", is_shape_tensor: true" if tensor.name in on_host else ""
    return f"  {{ name: {_text(tensor.name)}, data_type: {known}, dims: [ {dims} ]{reshape}{marked} }}"


def _text(value: str) -> str:
    """A string literal of protobuf's text format: everything but plain ASCII as octal bytes, so that no name of a
    tensor ends the literal or hides in it."""
    plain = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode("utf-8")
    )
    return '"' + "".join(plain) + '"'
