"""Realistic evidence, built from the types. Numbers are seeded; series are small."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from trt_action.evidence import (
    Accuracy,
    AchievedPrecision,
    ColdStart,
    Comparison,
    DuetSeries,
    Engine,
    ErrorInfo,
    Estimate,
    Evidence,
    Fingerprint,
    Gate,
    GateStatus,
    Interval,
    Latency,
    Memory,
    ModelInfo,
    OutputParity,
    Parity,
    ShapeRange,
    Side,
    Source,
    Speedup,
    Stage,
    TaskMetric,
    TensorInfo,
    Throughput,
    Tool,
    Unit,
)
from trt_action.layer_records import Layer, LayerChange, LayerDiff, LayerReport
from trt_action.measure.series import pack

SHA = "0123456789abcdef" * 4
PAIRS, BLOCK = 240, 8
STAGES = {
    "host": 0.1,
    "model": 0.2,
    "data": 0.3,
    "build-head": 2.4,
    "build-base": 2.2,
    "compare": 5.4,
    "measure": 7.8,
    "accuracy": 3.0,
}


def estimate(value: float, half: float, confidence: float = 0.99) -> Estimate:
    return Estimate(estimate=value, low=value - half, high=value + half, confidence=confidence)


@functools.cache
def noise(n: int, p50_ns: float, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Latencies as they look on a shared host: a sharp mode, a slow wave, rare large outliers."""
    rng = np.random.default_rng(seed)
    wave = 1 + 0.01 * np.sin(np.linspace(0, 9, n))
    values = p50_ns * wave * np.exp(rng.normal(0, 0.015, n))
    slow = rng.random(n) < 0.02
    return np.where(slow, values * rng.uniform(1.5, 8, n), values)


def model(name: str = "digits", **changes: Any) -> ModelInfo:
    values: dict[str, Any] = {
        "name": name,
        "path": f"examples/{name}/head.onnx"[:1000],
        "sha256": SHA,
        "bytes": 421_337,
        "opset": 21,
        "parameters": 104_842,
        "flops": 2_350_000,
        "inputs": [TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])],
        "outputs": [TensorInfo(name="logits", dtype="float32", shape=["batch", 10])],
        "shapes": {"image": ShapeRange(min=[1, 1, 8, 8], opt=[1, 1, 8, 8], max=[64, 1, 8, 8])},
    }
    return ModelInfo(**values | changes)


def engine(**changes: Any) -> Engine:
    proof = AchievedPrecision(
        asked="int8",
        weight_share=0.994,
        flop_share=0.981,
        nodes={"int8": 7, "fp32": 1},
        quantize_nodes=34,
        kept_high=["/head/Gemm"],
    )
    values: dict[str, Any] = {
        "backend": "onnxruntime",
        "backend_version": "1.32.1",
        "precision": "int8",
        "achieved_precision": proof,
        "recipe": {"precision": "int8", "calibration_method": "minmax"},
        "sha256": SHA,
        "bytes": 131_072,
        "build_seconds": 2.41,
        "from_cache": False,
    }
    return Engine(**values | changes)


def latency(p50_ms: float = 0.361, seed: int = 1, n: int = 6_000, **changes: Any) -> Latency:
    ns = np.round(noise(n, p50_ms * 1e6, seed))
    ms = np.sort(ns) / 1e6

    def at(percent: float) -> float:
        return float(ms[max(n - 1 - int((1 - percent / 100) * n), 0)])

    values: dict[str, Any] = {
        "n": n,
        "seconds": 3.0,
        "warmup_iterations": 80,
        "warmup_stable": True,
        "mean_ms": float(ms.mean()),
        "min_ms": float(ms[0]),
        "p50_ms": p50_ms,
        "p90_ms": at(90),
        "p95_ms": at(95),
        "p99_ms": at(99),
        "max_ms": float(ms[-1]),
        "intervals": {
            "p50": Interval(low_ms=p50_ms * 0.998, high_ms=p50_ms * 1.002),
            "p90": Interval(low_ms=at(89.5), high_ms=at(90.5)),
            "p95": Interval(low_ms=at(94.5), high_ms=at(95.5)),
            "p99": Interval(low_ms=at(98.7), high_ms=at(99.3)),
        },
        "series": pack(ns.astype(np.int64), "ns"),
    }
    return Latency(**values | changes)


def side(label: str = "examples/digits/head.onnx", p50_ms: float = 0.361, seed: int = 1, **changes: Any) -> Side:
    values: dict[str, Any] = {
        "label": label,
        "commit": "4f2a9c1d7be0",
        "model": model(),
        "engine": engine(),
        "latency": latency(p50_ms, seed),
        "throughput": Throughput(
            samples_per_second=1000 / p50_ms * 0.97, batch=1, concurrency=1, seconds=1.0, requests=2_700
        ),
        "memory": Memory(host_peak_bytes=182_000_000, host_engine_bytes=41_000_000),
        "cold_start": ColdStart(load_ms=31.2, first_inference_ms=1.93),
    }
    return Side(**values | changes)


@functools.cache
def duet(ratio: float, base_ns: float = 412_000, seed: int = 5) -> DuetSeries:
    n = PAIRS * BLOCK
    unit = np.repeat([0, 1], PAIRS // 2)
    head, base = noise(n, base_ns * ratio, seed), noise(n, base_ns, seed + 1)
    floor = PAIRS // 4 * BLOCK
    return DuetSeries(
        block_iterations=[BLOCK, BLOCK],
        unit=pack(unit, "index"),
        head_first=pack(np.random.default_rng(seed).integers(0, 2, PAIRS), "index"),
        head=pack(np.round(head).astype(np.int64), "ns"),
        base=pack(np.round(base).astype(np.int64), "ns"),
        floor_a=pack(np.round(noise(floor, base_ns, seed + 2)).astype(np.int64), "ns"),
        floor_b=pack(np.round(noise(floor, base_ns, seed + 3)).astype(np.int64), "ns"),
        floor_unit=pack(np.repeat([0, 1], PAIRS // 8), "index"),
    )


def comparison(ratio: float = 0.877, verdict: str = "improved", half: float = 0.006, **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "verdict": verdict,
        "reason": "Head is surely faster than base by more than the margin.",
        "p50_ratio": estimate(ratio, half),
        "p99_ratio": estimate(ratio * 1.02, 0.08),
        "witnesses": {"block_min": estimate(ratio * 0.999, half), "cpu_time": estimate(ratio * 1.001, half)},
        "noise_floor": estimate(1.0008, 0.004),
        "margin": 0.005,
        "tolerance": 0.02,
        "confidence": 0.99,
        "pairs": PAIRS,
        "iterations": PAIRS * BLOCK,
        "units": [Unit(index=i, pairs=PAIRS // 2, reloads=4, block_iterations=BLOCK) for i in (0, 1)],
        "seconds": 5.4,
        "seed": 0,
        "series": duet(ratio),
    }
    return Comparison(**values | changes)


def parity() -> Parity:
    def outputs(scale: float) -> dict[str, OutputParity]:
        one = OutputParity(
            max_abs=0.412 * scale,
            mean_abs=0.031 * scale,
            relative_l2=0.0121 * scale,
            cosine=0.999927,
            top1_agreement=0.9944,
        )
        return {"logits": one}

    return Parity(
        samples=360,
        data="validation",
        data_sha256=SHA,
        head=outputs(1),
        base=outputs(0.9),
        head_unoptimized=outputs(0.98),
    )


def task(drop: float = 0.0, half: float = 0.004) -> TaskMetric:
    return TaskMetric(
        metric="top1",
        samples=360,
        data_sha256=SHA,
        reference=Estimate(estimate=0.9917, low=0.9758, high=0.9972, confidence=0.95),
        head=Estimate(estimate=0.9889 - drop, low=0.9718 - drop, high=0.9957 - drop, confidence=0.95),
        base=Estimate(estimate=0.9889, low=0.9718, high=0.9957, confidence=0.95),
        drop=estimate(drop, half, 0.95),
        drop_from="base",
        p_value=1.0,
        method="wilson; newcombe-paired",
    )


def gate(name: str, rule: str, observed: str, limit: str, status: GateStatus = "passed", reason: str = "") -> Gate:
    return Gate(
        name=name, rule=rule, observed=observed, limit=limit, status=status, reason=reason or f"Reason: {status}."
    )


def gates(regression: GateStatus = "passed", accuracy: GateStatus = "passed") -> list[Gate]:
    return [
        gate("latency-threshold", "p99 < 50 ms", "1.92 ms [1.71, 2.10]", "50 ms"),
        gate("max-latency-regression", "p50 not slower than base by more than 0.5 %", "see table", "0.5 %", regression),
        gate("max-accuracy-drop", "top-1 not more than 0.5 points below base", "0.0 points", "0.5 points", accuracy),
        gate("min-accuracy", "top-1 ≥ 97 %", "98.9 %", "97 %", accuracy),
        gate("min-precision-share", "≥ 50 % of FLOPs in int8", "98.1 %", "50 %"),
    ]


def fingerprint() -> Fingerprint:
    return Fingerprint(
        digest=SHA,
        hardware={"cpu_model": "AMD EPYC 9R14", "cores": 2, "memory_bytes": 8_000_000_000},
        software={"python": "3.11.2", "onnxruntime": "1.32.1", "kernel": "6.1.0-amd64"},
        runtime={"threads": 1, "graph_optimization": "all", "memory_arena": True},
        hygiene={"governor": "unknown", "load": 0.31, "neighbours": []},
    )


def passed(**changes: Any) -> Evidence:
    """Head is faster, accuracy unchanged, every gate holds."""
    values: dict[str, Any] = {
        "tool": Tool(version="0.1.0"),
        "created": "2030-01-02T03:04:05+00:00",
        "outcome": "passed",
        "source": Source(commit="4f2a9c1d7be0aa", ref="refs/heads/faster", dirty=False),
        "model": model(),
        "settings": {
            "model": "examples/digits/head.onnx",
            "precision": "int8",
            "op-types": ["Conv", "Gemm"],
            "name": None,
        },
        "fingerprint": fingerprint(),
        "head": side(),
        "base": side("main:examples/digits/head.onnx", 0.412, seed=2),
        "comparison": comparison(),
        "speedup": Speedup(over="onnxruntime fp32 (cpu)", ratio=estimate(3.41, 0.06), baseline_p50_ms=1.231),
        "accuracy": Accuracy(parity=parity(), task=task()),
        "gates": gates(),
        "stages": [Stage(name=name, seconds=seconds) for name, seconds in STAGES.items()],
        "warnings": ["The CPU governor could not be read; frequency scaling may widen the intervals."],
    }
    return Evidence(**values | changes)


def regressed() -> Evidence:
    return passed(
        outcome="failed",
        head=side(p50_ms=0.434),
        comparison=comparison(1.054, "regressed", reason="Head is surely slower than base by more than the margin."),
        accuracy=Accuracy(parity=parity(), task=task(0.0222, 0.015)),
        gates=gates("failed", "failed"),
    )


def inconclusive() -> Evidence:
    return passed(
        outcome="inconclusive",
        head=side(p50_ms=0.416),
        comparison=comparison(
            1.011,
            "inconclusive",
            0.015,
            reason="Neither bound was reached in 60 s.",
            more_pairs_needed=900,
            seconds=60.0,
        ),
        gates=gates("inconclusive"),
    )


def within_noise() -> Evidence:
    return passed(
        head=side(p50_ms=0.4125),
        comparison=comparison(1.002, "within-noise", 0.005, reason="Surely below the tolerance."),
    )


def no_base() -> Evidence:
    against_reference = task(0.0028).model_copy(update={"base": None, "drop_from": "reference"})
    return passed(
        base=None,
        comparison=None,
        base_note="`main` has no model at this path: it is new.",
        accuracy=Accuracy(parity=parity(), task=against_reference),
        gates=gates("not-checked"),
    )


def no_labels() -> Evidence:
    return passed(
        accuracy=Accuracy(parity=parity(), not_checked="The validation data have no `labels`."),
        gates=gates(accuracy="not-checked"),
    )


def no_latency() -> Evidence:
    return passed(
        head=side(latency=None, throughput=None, memory=None, cold_start=None), base=None, comparison=None, speedup=None,
        gates=[],
    )  # fmt: skip


def error() -> Evidence:
    """A build that failed: nothing after it is known."""
    return passed(
        outcome="failed",
        head=None,
        base=None,
        comparison=None,
        speedup=None,
        accuracy=Accuracy(),
        gates=[],
        error=ErrorInfo(
            type="BuildError",
            title="Engine build failed",
            what="ONNX Runtime refused `head.onnx`.\nNode: /conv1/Conv\n<b>No such op</b> @octocat #1",
            why="The operator `Frobnicate` is not in opset 21.",
            fix="Export with another opset, or register the custom operator.",
            exit_code=5,
            stage="build-head",
        ),
    )


def layer(name: str, ms: float | None, **changes: Any) -> Layer:
    values: dict[str, Any] = {
        "name": f"{name}_nchwc",
        "kind": "Conv",
        "role": "compute",
        "precision": "fp16",
        "tactic": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x32",
        "ms": ms,
        "low_ms": ms,
        "high_ms": ms,
        "share": None if ms is None else ms / 0.4,
        "nodes": [name, f"{name}.relu"],
        "node_count": 2,
        "inputs": ["Half [1, 64, 8, 8], Channel major FP16 format where channel % 8 == 0"],
        "outputs": ["Half [1, 64, 8, 8]"],
    }
    return Layer(**values | changes)


def layer_report(**changes: Any) -> LayerReport:
    cast = layer(
        "image.cast", 0.02, kind="Reformat", role="convert", precision="fp32", nodes=[], node_count=0, tactic=""
    )
    values: dict[str, Any] = {
        "source": "tensorrt-inspector",
        "device": "gpu",
        "layers": [cast, layer("conv1", 0.1), layer("conv2", 0.28, node_count=31), layer("untimed", None)],
        "left_out": 2,
        "left_out_ms": 0.01,
        "total_ms": 0.41,
        "rounds": 3,
        "runs": 60,
        "by_precision": {"fp16": 0.93, "convert": 0.05, "fp32": 0.02},
        "asked": "fp16",
        "asked_share": 0.98,
        "note": "The profiler reported no time for 1 of 6 layers.",
    }
    return LayerReport(**values | changes)


def change(title: str, kinds: list[Any], head: float | None, base: float | None, detail: str = "") -> LayerChange:
    delta = (head or 0.0) - (base or 0.0)
    return LayerChange(
        kinds=kinds, title=title, head=[title], base=[title], head_ms=head, base_ms=base, delta_ms=delta, detail=detail
    )


def layer_diff(*changes: LayerChange) -> LayerDiff:
    return LayerDiff(changes=list(changes), matched=4, unchanged=1, head_ms=0.41, base_ms=0.36)


def layered() -> Evidence:
    """Head is slower, and its layers tell why."""
    return regressed().model_copy(
        update={
            "head": side(p50_ms=0.434, layers=layer_report()),
            "base": side("main:examples/digits/head.onnx", 0.412, seed=2, layers=layer_report(left_out=0, note="")),
            "layer_diff": layer_diff(
                change("conv1 + conv1.relu", ["lost-fusion", "slower"], 0.13, 0.1, "1 → 2 layers (Conv → Conv + Relu)"),
                change("image.cast", ["new-conversion"], 0.02, None, "Reformat: fp32 → fp16"),
                change("conv2 + conv2.relu", ["faster"], 0.08, 0.09, "another kernel"),
                change("pool", ["vanished"], None, 0.005, "Pooling"),
            ),
        }
    )


GATE_NAMES = frozenset(one.name for one in gates())

ALL = {
    "passed": passed,
    "regressed": regressed,
    "inconclusive": inconclusive,
    "within_noise": within_noise,
    "no_base": no_base,
    "no_labels": no_labels,
    "no_latency": no_latency,
    "error": error,
    "layered": layered,
}
