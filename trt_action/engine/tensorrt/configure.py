"""From options to TensorRT's builder configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trt_action.engine.tensorrt import targets
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BuildError
from trt_action.inputs import quote

TILING = {"none": "NONE", "fast": "FAST", "moderate": "MODERATE", "full": "FULL"}
HARDWARE = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
Ranges = Mapping[str, Mapping[str, Any]]
"""`min`, `opt` and `max` of every input, and of one that holds sizes its `values`, likewise."""

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def apply(
    trt: Any,
    config: Any,
    options: TensorRTOptions,
    *,
    tf32: bool,
    workspace: int | None,
    built_on_the_gpu: bool,
    warn: Callable[[str], None],
) -> None:
    """Set everything that was asked. What only a builder that times kernels takes is left alone on the other one.

    TF32 is on by default in TensorRT: an honest fp32 engine clears it.

    Raises:
        BuildError: the library does not know what was asked.
    """
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the report of layers has only their names
    if options.tiling != "none":
        config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, TILING[options.tiling])
    if options.aux_streams is not None:
        config.max_aux_streams = options.aux_streams
    if options.weight_streaming != "none":
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if built_on_the_gpu:
        config.avg_timing_iterations = options.timing_iterations
        config.hardware_compatibility_level = getattr(
            trt.HardwareCompatibilityLevel, HARDWARE[options.hardware_compatibility]
        )
    elif options.hardware_compatibility != "none":
        warn("`hardware-compatibility` has no effect with TensorRT for RTX: its targets are `compute-capabilities`.")
    if options.version_compatible != "none":
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.version_compatible == "without-lean":
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    targets.set_on(trt, config, options.compute_capabilities)


def add_profile(builder: Any, network: Any, config: Any, ranges: Ranges) -> None:
    """One optimisation profile with the range of every dynamic input: of its shape, or, where its values decide the shapes
    of others (a shape tensor, whose own shape is fixed), of its values. TensorRT accepts min > opt without a word where
    shapes are set, and values of an input that decides nothing: both are checked here.

    Raises:
        BuildError: an input without a range, one that does not fit, or values for an input that holds no sizes.
    """
    for tensor in _inputs(network):
        if not tensor.is_shape_tensor and _given_values(tensor.name, ranges):
            raise _holds_no_sizes(tensor.name)
    dynamic = [tensor for tensor in _inputs(network) if -1 in tuple(tensor.shape) or tensor.is_shape_tensor]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        if tensor.is_shape_tensor:
            low, opt, high = _values(tensor, ranges)
            profile.set_shape_input(tensor.name, low, opt, high)
        else:
            low, opt, high = _range(tensor, ranges)
            profile.set_shape(tensor.name, low, opt, high)
    if config.add_optimization_profile(profile) == -1:
        raise BuildError(
            f"TensorRT refuses the shape ranges of {', '.join(quote(tensor.name) for tensor in dynamic)}.",
            why=f"They are {dict(ranges)}"[:600],
            fix="Correct `shapes`.",
        )


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def check_lengths(declared: Mapping[str, Sequence[int | None]], ranges: Ranges) -> None:
    """Before the graph is parsed: TensorRT's parser fails inside of itself on sizes whose number is open.

    Args:
        declared: shapes of the graph's inputs; None = open.

    Raises:
        BuildError: such an input.
    """
    for name, shape in declared.items():
        if _given_values(name, ranges) and None in shape:
            raise BuildError(
                f"Input {quote(name)} holds sizes, and the model leaves open how many.",
                why="TensorRT takes sizes from an input of a fixed length only.",
                fix=f"Export the model with that axis fixed: {len(ranges[name]['values']['opt'])} elements.",
            )


def _given_values(name: str, ranges: Ranges) -> Any:
    return ranges.get(name, {}).get("values")


def _values(tensor: Any, ranges: Ranges) -> Range:
    given = _given_values(tensor.name, ranges)
    count = math.prod(tensor.shape)
    if not given:
        raise sizes_unknown(tensor.name, count)
    low, opt, high = (tuple(given[key]) for key in ("min", "opt", "max"))
    if not len(low) == len(opt) == len(high) == count or not all(
        a <= b <= c for a, b, c in zip(low, opt, high, strict=True)
    ):
        raise BuildError(
            f"The values of input {quote(tensor.name)} do not fit: min {list(low)}, opt {list(opt)}, max {list(high)}; "
            f"it holds {count}.",
            why="There is one for every element, and every element must keep min ≤ opt ≤ max.",
            fix="Correct `values` in `shapes`.",
        )
    return low, opt, high


def _range(tensor: Any, ranges: Ranges) -> Range:
    if tensor.name not in ranges:
        raise BuildError(
            f"Input {quote(tensor.name)} is dynamic ({list(tensor.shape)}) and has no shape range.",
            fix=f'Add it: `shapes: {{"{tensor.name}": {{"min": […], "opt": […], "max": […]}}}}`.',
        )
    low, opt, high = (tuple(ranges[tensor.name][key]) for key in ("min", "opt", "max"))
    declared = tuple(tensor.shape)
    fits = all(
        len(shape) == len(declared) and all(dim in (-1, size) for dim, size in zip(declared, shape, strict=True))
        for shape in (low, opt, high)
    )
    if not fits or not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
        raise BuildError(
            f"The shape range of input {quote(tensor.name)} does not fit: min {list(low)}, opt {list(opt)}, "
            f"max {list(high)}; the graph declares {list(declared)}.",
            why="Every axis must keep min ≤ opt ≤ max, and the fixed ones their size.",
            fix="Correct `shapes`.",
        )
    return low, opt, high


def sizes_unknown(name: str, count: int | None = None) -> BuildError:
    """`count`: how many elements the input has; None = not known."""
    some = "[…]" if count is None else f"[{', '.join('…' * count)}]"
    return BuildError(
        f"Input {quote(name)} holds sizes, not data: TensorRT must know the range of its values when it builds.",
        why="Its values decide the shape of another tensor (e.g. the target of a Reshape or Resize, the `k` of a TopK).",
        fix=f'Add the values that production uses: `shapes: {{"{name}": {{"values": {{"min": {some}, "opt": {some}, '
        f'"max": {some}}}}}}}`; or make these sizes constants of the model.',
    )


def _holds_no_sizes(name: str) -> BuildError:
    return BuildError(
        f"`shapes` gives `values` of input {quote(name)}, which holds no sizes: no shape in the graph depends on them.",
        why="TensorRT takes ranges of values for inputs that decide shapes only, and ignores these.",
        fix="Remove it from `shapes`, or give its shape there.",
    )
