"""Inputs whose values decide shapes (TensorRT: shape tensors): read in the host's memory, in the range of the profile."""

from __future__ import annotations

from typing import Any

from trt_action.engine.backend import Array, Tensor
from trt_action.engine.tensorrt import causes
from trt_action.engine.tensorrt.log import Log
from trt_action.errors import BuildError, DataError
from trt_action.inputs import quote, quote_all


def check_values(engine: Any, tensor: Tensor, array: Array) -> None:
    """Raises:
    DataError: sizes out of the range that the engine was built for.
    """
    if not engine.is_shape_inference_io(tensor.name):
        return
    known = engine.get_tensor_profile_values(0, tensor.name)  # by position: the keywords are swapped
    if not known:
        return
    low, _, high = known
    given = array.reshape(-1).tolist()
    if not all(a <= value <= b for a, value, b in zip(low, given, high, strict=True)):
        raise DataError(
            f"Input {quote(tensor.name)} holds the sizes {given}; the engine was built for values from {list(low)} "
            f"to {list(high)}.",
            fix="Give sizes in that range, or build with other `values` in `shapes`.",
        )


def fixed(tensor: Tensor) -> tuple[int, ...]:
    """The shape of an output that holds sizes: the engine knows it before any input.

    Raises:
        BuildError: it does not.
    """
    shape = tuple(dim for dim in tensor.shape if isinstance(dim, int))
    if len(shape) != len(tensor.shape):
        raise BuildError(
            f"Output {quote(tensor.name)} holds sizes, and how many is not known before the inference.",
            fix="Export the model without this output.",
        )
    return shape


def infer_shapes(context: Any, said: Log) -> None:
    """Let TensorRT compute all shapes, and the values of outputs that are sizes themselves and have an address.

    Raises:
        DataError: sizes that are in range one by one, and impossible together.
        BuildError: an input was forgotten.
    """
    try:
        missing = context.infer_shapes()
    except RuntimeError:
        words = causes.readable(said.errors[0]) if said.errors else "TensorRT gives no reason"
        said.clear()
        raise DataError(
            f"The engine cannot run these sizes: {words}.", fix="Give inputs whose shapes and values go together."
        ) from None
    if missing:
        raise BuildError(f"TensorRT cannot infer shapes: it still waits for {quote_all(missing)}.")
