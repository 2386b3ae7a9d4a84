"""Layers in the evidence: what an engine is made of, how long each part takes, and how head's parts differ from base's.

Times are ms per inference with a profiler on: longer than without, and only to be held against each other.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trt_action.records import Name, Precision, Record, Text


class Layer(Record):
    """One layer of an engine: what the backend made of one or several nodes of the ONNX graph."""

    name: Name = Field(description="As the backend calls it.")
    kind: Name = Field(description="Operator or layer type, as the backend calls it.")
    role: Literal["compute", "convert", "other"] = Field(
        description="compute: a matrix product or convolution, with what is fused to it; convert: changes only type or "
        "layout (cast, quantize, reformat, copy)."
    )
    precision: Name | None = Field(None, description="Type that is computed in: fp32, fp16, int8, …; null if unknown.")
    tactic: Name = Field("", description="Kernel (TensorRT) or execution provider (ONNX Runtime).")
    ms: float | None = Field(None, ge=0, description="Mean per inference in the profiler's pass; null without a time.")
    low_ms: float | None = Field(None, ge=0, description="Smallest mean of a round.")
    high_ms: float | None = Field(None, ge=0, description="Largest mean of a round.")
    share: float | None = Field(None, ge=0, le=1, description="Of the time of all layers.")
    nodes: list[Name] = Field(default_factory=list, description="ONNX nodes that went into it (≤ 20).")
    node_count: int = Field(0, ge=0, description="Number of those nodes.")
    inputs: list[Name] = Field(default_factory=list, description="Type, shape and format of inputs (≤ 8).")
    outputs: list[Name] = Field(default_factory=list, description="The same of outputs.")


class LayerReport(Record):
    """The layers of one engine, from a pass of its own: with a profiler on, inferences take longer than they do."""

    source: Literal["tensorrt-inspector", "onnxruntime-profiler"]
    device: Name = Field(description="Where the layers ran: `cpu` or `gpu`.")
    layers: list[Layer] = Field(max_length=1_000, description="In the order of execution (the slowest, if many).")
    left_out: int = Field(0, ge=0, description="Layers that are not listed.")
    left_out_ms: float = Field(0, ge=0)
    total_ms: float | None = Field(None, ge=0, description="Of all layers; null without times.")
    rounds: int = Field(0, ge=0, description="Rounds of inferences, head and base in turns.")
    runs: int = Field(0, ge=0, description="Inferences that count, over all rounds.")
    by_precision: dict[Name, float] = Field(
        default_factory=dict, description="Share of the time by precision; conversions are `convert`."
    )
    asked: Precision
    asked_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the time of `compute` layers that is spent in the asked precision or a cheaper one; "
        "null where it cannot be told.",
    )
    note: Text = ""


LayerChangeKind = Literal[
    "lost-fusion", "new-conversion", "higher-precision", "slower", "faster", "appeared", "vanished", "new-fusion"
]


class LayerChange(Record):
    """Layers of head and base that do the same work, and how they differ."""

    kinds: list[LayerChangeKind] = Field(min_length=1, max_length=8, description="The most telling first.")
    title: Name = Field(description="The ONNX nodes that the layers come from, or the layers' names.")
    head: list[Name] = Field(default_factory=list, description="Names of head's layers (≤ 10).")
    base: list[Name] = Field(default_factory=list, description="Names of base's layers (≤ 10).")
    head_ms: float | None = Field(None, ge=0)
    base_ms: float | None = Field(None, ge=0)
    delta_ms: float | None = Field(None, description="Head minus base; a layer that is not there counts 0.")
    detail: Text = Field("", description="In words: precision, number of layers, kernels.")


class LayerDiff(Record):
    """Head's layers against base's, matched by the ONNX nodes they come from (docs/layers.md)."""

    changes: list[LayerChange] = Field(max_length=500, description="The largest difference in time first.")
    left_out: int = Field(0, ge=0)
    matched: int = Field(ge=0, description="Groups of layers that both sides have.")
    unchanged: int = Field(ge=0, description="Of those, how many are alike.")
    head_ms: float | None = Field(None, ge=0, description="Time of all layers.")
    base_ms: float | None = Field(None, ge=0)
    note: Text = ""
