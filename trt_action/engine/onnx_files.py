"""Which files an ONNX model consists of, read from the graph without its weights."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from trt_action.errors import BuildError
from trt_action.inputs import quote

if TYPE_CHECKING:
    from onnx import ModelProto


def names(path: Path) -> list[str]:
    """The model's own name, then its external data files, relative to its folder, sorted.

    Raises:
        BuildError: the file is not an ONNX model, or a name leads out of the model's folder.
    """
    from trt_action.model.tensors import every_tensor

    model = structure(path)
    external = {
        entry.value for tensor in every_tensor(model) for entry in tensor.external_data if entry.key == "location"
    }
    for name in external:
        relative = PurePosixPath(name)
        if not name or relative.is_absolute() or ".." in relative.parts:
            raise BuildError(f"{quote(path.name)} refers to external data outside its folder: {quote(name)}.")
    return [path.name, *sorted(external)]


def computes_in_bfloat16(path: Path) -> bool:
    """True if any weight or cast of the model is bfloat16; False also for a file that is not a model."""
    from onnx import TensorProto

    from trt_action.model.tensors import every_tensor

    try:
        model = structure(path)
    except BuildError:
        return False
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    return TensorProto.BFLOAT16 in {*casts, *(tensor.data_type for tensor in every_tensor(model))}


def structure(path: Path) -> ModelProto:
    """The model without external data.

    Raises:
        BuildError: the file is missing or not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, ValueError, DecodeError) as error:
        raise BuildError(
            f"{quote(path.name)} cannot be read as an ONNX model: {' '.join(str(error).split())[:300]}"
        ) from None
