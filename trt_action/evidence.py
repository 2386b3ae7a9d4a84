"""The record of one run. One versioned schema; everything that is shown anywhere is rendered from it alone.

Units: times of single inferences in ms, durations of stages in seconds, sizes in bytes, rates in samples/s
(one sample = one element of the batch axis; a model without a batch axis counts one per inference).
Ratios are head / base: above 1 means that head is slower.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trt_action.gpu_records import DeviceLatency, Telemetry
from trt_action.layer_records import LayerDiff, LayerReport
from trt_action.llm_records import LlmRun
from trt_action.records import Interval as Interval
from trt_action.records import Name as Name
from trt_action.records import Precision as Precision
from trt_action.records import Record as Record
from trt_action.records import Series as Series
from trt_action.records import Sha256 as Sha256
from trt_action.records import Text as Text
from trt_action.search_records import Search

SCHEMA_VERSION: Literal["1.0"] = "1.0"

Verdict = Literal["improved", "within-noise", "regressed", "inconclusive"]
Outcome = Literal["passed", "failed", "inconclusive"]
GateStatus = Literal["passed", "failed", "inconclusive", "not-checked"]


class Estimate(Record):
    """A number with its confidence interval, e.g. a ratio of medians at 99 %."""

    estimate: float
    low: float
    high: float
    confidence: float = Field(gt=0, lt=1, description="Nominal coverage of [low, high], e.g. 0.99.")


class TensorInfo(Record):
    """One input or output of the model as declared: unknown dimensions are their symbolic name or null."""

    name: Name
    dtype: Name = Field(description="numpy name (float32, int64, …), or `bfloat16`, `string`.")
    shape: list[int | Name | None]


class ValueRange(Record):
    """Values of an input that holds sizes (the target of a Reshape, the limit of a Range), in the profile."""

    min: list[int]
    opt: list[int]
    max: list[int]


class ShapeRange(Record):
    """Shapes of one input in the profile; equal for a fixed shape."""

    min: list[int]
    opt: list[int]
    max: list[int]
    values: ValueRange | None = Field(None, description="Where they were given: `opt` is what was measured.")


class ModelInfo(Record):
    """The ONNX model that was asked for."""

    name: Name
    path: Name = Field(description="As the user wrote it, or `<revision>:<path>` for a model read from Git.")
    sha256: Sha256 = Field(description="Over the model file and every external data file (docs/evidence.md).")
    bytes: int = Field(ge=0, description="Model file plus external data.")
    opset: int
    parameters: int = Field(ge=0, description="Number of elements of all initializers.")
    flops: int | None = Field(
        None,
        ge=0,
        description="2 × multiply-accumulates of Conv/Gemm/MatMul at the measured shapes; null if unknown.",
    )
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    shapes: dict[Name, ShapeRange] = Field(description="The profile that was measured; `opt` is the measured shape.")


class AchievedPrecision(Record):
    """What the graph really does, counted after the conversion; never copied from the request."""

    asked: Precision
    weight_share: float = Field(ge=0, le=1, description="Share of weight elements stored or computed in `asked`.")
    flop_share: float | None = Field(None, ge=0, le=1, description="Share of FLOPs computed in `asked`.")
    nodes: dict[Name, int] = Field(description="Compute nodes (Conv, Gemm, MatMul) by precision.")
    quantize_nodes: int = Field(0, ge=0, description="QuantizeLinear + DequantizeLinear nodes in the prepared graph.")
    kept_high: list[Name] = Field(default_factory=list, description="Compute nodes left in higher precision (≤ 100).")
    note: Text = ""


class Engine(Record):
    """The compiled artifact that was measured."""

    backend: Name
    backend_version: Name
    precision: Precision
    achieved_precision: AchievedPrecision
    recipe: dict[str, Any] = Field(description="Everything that decides the bytes, apart from model and data.")
    calibration_sha256: Sha256 | None = None
    sha256: Sha256
    bytes: int = Field(ge=0)
    build_seconds: float = Field(ge=0, description="Preparation + build when it was built (also if from the cache).")
    from_cache: bool
    cache_key: Name = ""
    built_on: dict[Name, Name] | None = Field(
        None, description="GPU whose kernels are in the engine: name, capability, driver. null: bound to none."
    )
    search: Search | None = Field(None, description="Where the recipe was searched and not given.")


class Latency(Record):
    """Latency of single inferences at the measured shape, one request at a time. Percentiles as trtexec defines
    them: `sorted[max(n - 1 - int((1 - p/100) * n), 0)]`. Nothing is deleted from the samples of a turn."""

    n: int = Field(ge=1)
    seconds: float = Field(ge=0, description="Duration of the timed loop.")
    warmup_iterations: int = Field(ge=0)
    warmup_stable: bool = Field(description="False if the warm-up limit came before the stability rule held.")
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    confidence: float = 0.95
    intervals: dict[Literal["p50", "p90", "p95", "p99"], Interval | None] = Field(
        description="null where n is too small for a two-sided interval."
    )
    series: Series | None = None
    set_aside: int = Field(
        0,
        ge=0,
        description="Turns that do not count, because the GPU's clocks were held down or moved; measured again.",
    )
    device: DeviceLatency | None = Field(None, description="The parts of an inference on a GPU, by CUDA events.")
    notes: list[Text] = Field(default_factory=list)


class Throughput(Record):
    """Closed loop with `concurrency` requests in flight at `batch`."""

    samples_per_second: float = Field(ge=0)
    batch: int = Field(ge=1)
    concurrency: int = Field(ge=1)
    seconds: float = Field(ge=0)
    requests: int = Field(ge=0)
    set_aside: int = Field(
        0,
        ge=0,
        description="Windows that do not count, because the GPU's clocks were held down or moved; measured again.",
    )


class Memory(Record):
    """From a separate pass in a fresh process: sampling memory disturbs latency."""

    host_peak_bytes: int = Field(ge=0, description="Peak RSS of the worker after load and inference.")
    host_engine_bytes: int = Field(ge=0, description="The same minus the worker's RSS before loading the engine.")
    device_peak_bytes: int | None = Field(None, ge=0)


class ColdStart(Record):
    """In a fresh process with the file cache warm."""

    load_ms: float = Field(ge=0, description="Engine file to ready session.")
    first_inference_ms: float = Field(ge=0)


class Side(Record):
    """Head or base."""

    label: Name = Field(description="What a person calls it: path, commit, or `<ref>:<path>`.")
    commit: Name | None = None
    model: ModelInfo
    engine: Engine
    latency: Latency | None = None
    throughput: Throughput | None = None
    memory: Memory | None = None
    cold_start: ColdStart | None = None
    layers: LayerReport | None = None


class Unit(Record):
    """One fresh set of worker processes."""

    index: int
    pairs: int
    reloads: int
    block_iterations: int
    set_aside: int = Field(
        0,
        ge=0,
        description="Rounds that do not count, because the GPU's clocks were held down or moved; measured again.",
    )


class DuetSeries(Record):
    """Everything that the verdict was computed from; `trt-action compare --from` recomputes it.

    Arrays are aligned by pair. `head` / `base` hold the single iterations in ns, `block_iterations` per pair
    and unit after the first of each block (cache refill) was dropped.
    """

    block_iterations: list[int] = Field(description="Kept iterations per block, by unit.")
    unit: Series = Field(description="Unit index of each pair.")
    head_first: Series = Field(description="1 if the head block of the pair ran first.")
    head: Series
    base: Series
    head_cpu: Series | None = Field(None, description="Thread CPU (or device event) time of each head block.")
    base_cpu: Series | None = None
    floor_a: Series | None = Field(None, description="Base-vs-base blocks of the noise floor, like head.")
    floor_b: Series | None = None
    floor_unit: Series | None = None


class Comparison(Record):
    """Head against base, measured interleaved in this run (docs/method.md)."""

    verdict: Verdict
    reason: Text
    p50_ratio: Estimate | None = Field(
        None, description="Hodges–Lehmann of paired block medians, signed-rank interval."
    )
    p99_ratio: Estimate | None = Field(None, description="Paired-block bootstrap.")
    p99_verdict: Verdict = "inconclusive"
    of: Literal["inferences", "requests"] = Field("inferences", description="What one iteration is.")
    witnesses: dict[Literal["block_min", "cpu_time", "ttft"], Estimate] = Field(default_factory=dict)
    noise_floor: Estimate | None = Field(None, description="Base against base, same run, same statistic.")
    margin: float = Field(ge=0, le=1000, description="Smallest relative slowdown or gain worth a verdict, e.g. 0.005.")
    tolerance: float = Field(ge=0, le=1000, description="`within-noise` when surely smaller than this, e.g. 0.02.")
    limit: float | None = Field(
        None, ge=0, le=1000, description="max-latency-regression, if asked: decided with the same test."
    )
    limit_status: GateStatus = "not-checked"
    confidence: float = Field(gt=0, lt=1)
    pairs: int = Field(ge=0)
    iterations: int = Field(ge=0, description="Timed inferences per side.")
    units: list[Unit] = Field(default_factory=list)
    seconds: float = Field(ge=0)
    seed: int
    more_pairs_needed: int | None = Field(None, description="Extrapolated, when inconclusive; null if unknown.")
    warnings: list[Text] = Field(default_factory=list)
    stopped: Text = Field("", description="Why measuring ended before its rule did (a side crashed); empty if not.")
    series: DuetSeries | None = None


class OutputParity(Record):
    """Numeric difference of one output from the FP32 reference of the same model over all compared samples.

    All numbers are null where they have no value: no elements, shapes that differ, or NaN/Inf on one side only.
    """

    max_abs: float | None
    mean_abs: float | None
    relative_l2: float | None = Field(description="‖x − ref‖₂ / ‖ref‖₂; null if the reference is all zero.")
    cosine: float | None
    top1_agreement: float | None = Field(
        None,
        description="Share of samples with the same arg-max (class outputs); of equal elements (integers, booleans).",
    )
    top5_agreement: float | None = Field(
        None, description="Share of samples whose reference arg-max is among the five largest."
    )
    nan: int = Field(0, ge=0, description="NaN elements of this side.")
    inf: int = Field(0, ge=0, description="Infinite elements of this side.")
    reference_nan: int = Field(0, ge=0, description="NaN elements of the reference.")
    reference_inf: int = Field(0, ge=0, description="Infinite elements of the reference.")


class Parity(Record):
    """Per output name, against the FP32 reference of the side's own model."""

    samples: int = Field(ge=0)
    data: Literal["validation", "calibration", "synthetic"]
    data_sha256: Sha256 | None = None
    head: dict[Name, OutputParity]
    base: dict[Name, OutputParity] | None = Field(
        None, description="Against base's own FP32 reference; null without a base, or if it has no reference."
    )
    head_unoptimized: dict[Name, OutputParity] | None = Field(
        None, description="Head's Q/DQ graph with graph optimisation off: what the quantization alone costs."
    )
    missing_outputs: list[Name] = Field(default_factory=list, description="Outputs that only one side has.")


class TaskMetric(Record):
    """The task metric on labelled data. Fractions are in [0, 1] (0.97 = 97 %)."""

    metric: Name
    higher_is_better: bool = True
    samples: int = Field(ge=1)
    data_sha256: Sha256
    reference: Estimate | None
    head: Estimate
    base: Estimate | None = None
    head_unoptimized: float | None = None
    drop: Estimate | None = Field(
        None,
        description="Loss from compared-to to head in the metric's own unit (above 0 = worse), paired interval.",
    )
    drop_from: Literal["base", "reference"] | None = None
    p_value: float | None = Field(None, ge=0, le=1, description="McNemar's exact test, or null.")
    method: Name = Field("", description="How the intervals were computed, e.g. `wilson`, `paired-bootstrap`.")


class Accuracy(Record):
    parity: Parity | None = None
    task: TaskMetric | None = None
    not_checked: Text = Field("", description="Why there is no task metric, in words; empty if there is one.")
    notes: list[Text] = Field(default_factory=list, description="What a reader of the numbers must know.")


class Speedup(Record):
    """Framework baseline p50 / head p50, measured interleaved on the same device."""

    over: Name = Field(description="e.g. `onnxruntime fp32 (cpu)`.")
    ratio: Estimate
    baseline_p50_ms: float


class Gate(Record):
    """One rule and what became of it."""

    name: Name = Field(description="The setting's name, e.g. `latency-threshold`.")
    rule: Name = Field(description="As a person says it, e.g. `p99 < 50 ms`.")
    observed: Name
    limit: Name
    status: GateStatus
    reason: Text


class Stage(Record):
    name: Name
    seconds: float = Field(ge=0)
    note: Name = ""


class ErrorInfo(Record):
    """Why a run ended early. Parts of the evidence that were not reached are null."""

    type: Name
    title: Name
    what: Text
    why: Text
    fix: Text
    exit_code: int
    stage: Name = ""


class Fingerprint(Record):
    """Identity of the measuring host: hardware, software, and the settings of the runtime that change speed."""

    digest: Sha256 = Field(description="Over the stable part: `hardware`, `software` and `runtime`.")
    hardware: dict[Name, Any]
    software: dict[Name, Any]
    runtime: dict[Name, Any] = Field(description="Threads, optimisation level, arena, affinity, …")
    hygiene: dict[Name, Any] = Field(default_factory=dict, description="Load, governor, neighbours: not in the digest.")


class Source(Record):
    """Where the code came from. Filled from Git, or from the event by the action."""

    repository: Name | None = None
    commit: Name | None = None
    measured_commit: Name | None = Field(None, description="The merge commit on a pull request, if it differs.")
    base_commit: Name | None = None
    ref: Name | None = None
    dirty: bool | None = None
    run_url: Name | None = None


class Tool(Record):
    name: Literal["trt-action"] = "trt-action"
    version: Name


class Evidence(Record):
    """One model, one run."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    tool: Tool
    created: Name = Field(description="UTC, ISO 8601.")
    outcome: Outcome
    error: ErrorInfo | None = None
    source: Source = Source()
    model: ModelInfo | None = None
    settings: dict[Name, Any] = Field(description="Effective settings, kebab-case.")
    fingerprint: Fingerprint | None = None
    head: Side | None = None
    base: Side | None = None
    base_note: Text = Field("", description="Why there is no base, or what is special about it.")
    telemetry: Telemetry | None = None
    comparison: Comparison | None = None
    speedup: Speedup | None = None
    layer_diff: LayerDiff | None = None
    llm: LlmRun | None = Field(
        None, description="`backend: openai-endpoint`; then there is no `model`, `head`, `base`."
    )
    accuracy: Accuracy = Accuracy()
    gates: list[Gate] = Field(default_factory=list)
    stages: list[Stage] = Field(default_factory=list)
    warnings: list[Text] = Field(default_factory=list)
