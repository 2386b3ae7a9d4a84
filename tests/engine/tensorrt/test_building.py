"""Real builds by TensorRT for RTX: it needs no GPU."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engine import nets
from tests.engine.conftest import F32, Save
from trt_action import data, engine
from trt_action import model as models
from trt_action.engine import building
from trt_action.engine.backend import BuildContext, RuntimeOptions
from trt_action.engine.building import BuiltEngine
from trt_action.engine.cache import Cache
from trt_action.engine.tensorrt import configure, library, log, plan, progress
from trt_action.engine.tensorrt.backend import TensorRTRtxBackend
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BackendUnavailableError, BuildError, OutOfMemoryError, TrtActionError
from trt_action.precision import Recipe

trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx")
pytestmark = pytest.mark.skipif(
    bool(os.environ.get("CUDA_VISIBLE_DEVICES")), reason="builds without a GPU are tested here"
)

ADA = TensorRTOptions(compute_capabilities=("8.9",))
OPTIONS = RuntimeOptions(device="cuda:0", tensorrt=ADA)
Sizes = dict[str, dict[str, Any]]


def compiled(path: Path, out: Path, shapes: Sizes | None = None, **changed: Any) -> Path:
    out.mkdir(exist_ok=True)
    options = replace(OPTIONS, tensorrt=replace(ADA, **changed))
    return building.compile_in_child(path, "tensorrt-rtx", options, out, timeout=120, shapes=shapes)


def fixed(**shapes: list[int]) -> Sizes:
    return {name: {"min": shape, "opt": shape, "max": shape} for name, shape in shapes.items()}


def holding(name: str, values: list[list[int]]) -> Sizes:
    """An input of one axis that holds sizes: their `min`, `opt` and `max`."""
    shape = [len(values[1])]
    return {
        name: {
            "min": shape,
            "opt": shape,
            "max": shape,
            "values": dict(zip(("min", "opt", "max"), values, strict=True)),
        }
    }


def obtain(path: Path, work: Path, recipe: Recipe, shapes: Any = None, **changed: Any) -> BuiltEngine:
    model = models.load(path, label=path.name, shapes=shapes, batch_size=8)
    arguments: dict[str, Any] = {"calibration": None, "options": OPTIONS, "cache": Cache(None, 1), **changed}
    calibration = arguments.pop("calibration")
    return engine.obtain(model, recipe, calibration, backend="tensorrt-rtx", work_dir=work, timeout=120, **arguments)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_a_trained_cnn_in_every_precision(digits: Path, tmp_path: Path, precision: Any) -> None:
    path = digits / "model.onnx"
    info = models.load(path, label="m", batch_size=8).info
    calibration = None
    if precision in {"int8", "fp8"}:
        calibration = data.load(
            str(digits / "calibration.npz"), info, origin="calibration", need_labels=False, limit=16, timeout=60, base_dir=digits
        )  # fmt: skip
    built = obtain(path, tmp_path, Recipe(precision), calibration=calibration)
    content = built.loadable.path.read_bytes()
    header = plan.read(content[: plan.HEAD_BYTES], "engine.plan")
    assert header.flavour is library.RTX
    assert ".".join(map(str, header.version)) == trt.__version__ == built.record.backend_version
    assert built.loadable.sha256 == built.record.sha256 == hashlib.sha256(content).hexdigest()
    asked = "fp32" if precision == "tf32" else precision
    assert built.record.achieved_precision.nodes == {asked: 6}
    limits = {"fp32": (1.9e6, 2.5e6), "tf32": (1.9e6, 2.5e6)}  # half the weights everywhere else
    low, high = limits.get(precision, (0.9e6, 1.7e6))
    assert low < len(content) < high


def test_resnet50_and_a_block_of_bert(tmp_path: Path) -> None:
    resnet = nets.resnet50(tmp_path / "resnet50.onnx")
    image = fixed(image=[1, 3, 224, 224])
    full = compiled(resnet, tmp_path / "out", image)
    assert 100e6 < full.stat().st_size < 115e6  # 25.5 million weights
    block = nets.bert_block(tmp_path / "bert.onnx")
    shapes = {"x": {"min": [1, 16, 768], "opt": [1, 128, 768], "max": [8, 384, 768]}}
    whole = compiled(block, tmp_path / "whole", shapes).stat().st_size
    half = obtain(block, tmp_path / "half", Recipe("fp16"), shapes)
    assert half.record.achieved_precision.nodes.keys() == {"fp16"}
    assert half.record.bytes < 0.6 * whole


def test_the_same_graph_gives_the_same_bytes(conv: Path, tmp_path: Path) -> None:
    shapes = {"x": {"min": [1, 1, 8, 8], "opt": [2, 1, 8, 8], "max": [4, 1, 8, 8]}}
    first = compiled(conv, tmp_path / "a", shapes).read_bytes()
    assert compiled(conv, tmp_path / "b", shapes).read_bytes() == first
    assert compiled(conv, tmp_path / "c", shapes, workspace="64MB").read_bytes() != first  # so it is in the cache key
    assert compiled(conv, tmp_path / "d", fixed(x=[2, 1, 8, 8])).read_bytes() != first
    assert compiled(conv, tmp_path / "e", shapes, compute_capabilities=("8.0", "12.0")).read_bytes() != first


def test_external_data_is_found_beside_the_model(save: Save, tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32), "w")
    io = [helper.make_tensor_value_info(name, F32, [4, 256]) for name in ("x", "y")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    inside = save(nodes, io[:1], io[1:], [weights], name="inside.onnx")
    outside = save(nodes, io[:1], io[1:], [weights], name="outside.onnx", external=True)
    assert outside.stat().st_size < 10_000
    assert compiled(outside, tmp_path / "a").read_bytes() == compiled(inside, tmp_path / "b").read_bytes()


def _values(name: str, shape: list[Any], kind: int = TensorProto.INT64) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _driven(save: Save) -> dict[str, Path]:
    """Models with an input whose values decide a shape."""
    stored = [numpy_helper.from_array(np.array(value, kind), name) for name, value, kind in
              (("zero", 0, np.int32), ("one", 1, np.int32), ("last", [1], np.int64), ("from", [0], np.int64))]  # fmt: skip
    reshape = helper.make_node("Reshape", ["x", "size"], ["y"])
    small, size = _io([2, 3])[0], _values("size", [2])
    image = _io(["N", 3, 8, 8])[0]
    counts = [
        helper.make_node("Range", ["zero", "limit", "one"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=F32),
        helper.make_node("Add", ["f", "x"], ["y"]),
    ]
    also = [reshape, helper.make_node("Cast", ["size"], ["f"], to=F32), helper.make_node("ReduceSum", ["f"], ["z"])]
    cast = [
        helper.make_node("Cast", ["size"], ["s"], to=TensorProto.INT64),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    total = helper.make_tensor_value_info("z", F32, [1])
    return {
        "reshape": save([reshape], [*small, size], _io(["a", "b"])[1], name="reshape.onnx"),
        "resize": save([helper.make_node("Resize", ["x", "", "", "size"], ["y"], mode="nearest")], [*image, _values("size", [4])], _io(["N", 3, "h", "w"])[1], name="resize.onnx"),
        "range": save(counts, [*_io([1])[0], _values("limit", [], TensorProto.INT32)], _io(["n"])[1], stored[:2], name="range.onnx"),
        "expand": save(cast, [*_io([1, 3])[0], _values("size", [2], TensorProto.INT32)], _io(["a", 3])[1], name="expand.onnx"),
        "both": save(also, [*small, size], [*_io(["a", "b"])[1], total], name="both.onnx"),
        "topk": save([helper.make_node("TopK", ["x", "size"], ["y", "i"])], [*_io(["N", 16])[0], _values("size", [1])], [*_io(["N", "k"])[1], _values("i", ["N", "k"])], name="topk.onnx"),
        "slice": save([helper.make_node("Slice", ["x", "from", "size", "last"], ["y"])], [*_io([1, 16])[0], _values("size", [1])], _io([1, "n"])[1], stored[2:], name="slice.onnx"),
    }  # fmt: skip


DRIVEN: dict[str, tuple[dict[str, Any], dict[str, list[int]]]] = {
    "reshape": ({"size": {"min": [1, 1], "opt": [3, 2], "max": [6, 6]}}, {"y": [3, 2]}),
    "resize": ({"size": {"min": [1, 3, 8, 8], "opt": [4, 3, 12, 10], "max": [8, 3, 32, 32]}}, {"y": [4, 3, 12, 10]}),
    "range": ({"limit": {"min": [1], "opt": [5], "max": [64]}}, {"y": [5]}),
    "expand": ({"size": {"min": [1, 3], "opt": [4, 3], "max": [8, 3]}}, {"y": [4, 3]}),
    "both": ({"size": [6, 1]}, {"y": [6, 1], "z": [1]}),
    "topk": ({"size": {"min": [1], "opt": [2], "max": [16]}}, {"y": [4, 2], "i": [4, 2]}),
    "slice": ({"size": {"min": [1], "opt": [9], "max": [16]}}, {"y": [1, 9]}),
}  # fmt: skip


@pytest.mark.parametrize("case", DRIVEN)
def test_inputs_whose_values_decide_shapes(save: Save, tmp_path: Path, case: str) -> None:
    """A real build for their range, and a real run of the same feeds by ONNX Runtime; the fixed axes of a batch of 4."""
    path = _driven(save)[case]
    values, expected = DRIVEN[case]
    shapes = {name: {"values": value} for name, value in values.items()}
    model = models.load(path, label=case, shapes=shapes, batch_size=4)
    arguments: dict[str, Any] = {"backend": "tensorrt-rtx", "options": OPTIONS, "timeout": 120}
    built = engine.obtain(model, Recipe("fp32"), None, cache=Cache(None, 1), work_dir=tmp_path / "a", **arguments)
    other = {name: {"values": _opt(value)} for name, value in values.items()}
    again = models.load(path, label=case, shapes=other, batch_size=4)
    record = engine.obtain(
        again, Recipe("fp32"), None, cache=Cache(None, 1), work_dir=tmp_path / "b", **arguments
    ).record
    assert (record.cache_key == built.record.cache_key) == (other == shapes)
    feeds = data.example_feeds(model.info, 0, None)
    for one in (engine.reference(model), engine.baseline(model, RuntimeOptions())):
        session = engine.backend("onnxruntime").load(one)
        session.bind(feeds)
        session.run()
        assert {name: list(array.shape) for name, array in session.fetch().items()} == expected
        session.close()


def _opt(value: Any) -> list[int]:
    return list(value["opt"] if isinstance(value, dict) else value)


def test_half_precision_keeps_sizes_whole(save: Save, tmp_path: Path) -> None:
    shapes = {"size": {"values": {"min": [1, 3, 8, 8], "opt": [4, 3, 12, 10], "max": [8, 3, 32, 32]}}}
    weights = [numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "", "size"], ["y"], mode="nearest"),
    ]
    path = save(
        nodes, [*_io(["N", 3, 8, 8])[0], _values("size", [4])], _io(["N", 3, "h", "w"])[1], weights, name="half.onnx"
    )
    built = obtain(path, tmp_path, Recipe("fp16"), shapes)
    assert built.record.achieved_precision.nodes == {"fp16": 1}


def _io(shape: list[Any], kind: int = F32) -> tuple[list[Any], list[Any]]:
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y"))
    return [x], [y]


def _graphs(save: Save) -> dict[str, Path]:
    """Models that TensorRT does not take, by what is wrong with them."""
    static, dynamic = _io([4, 4]), _io(["N", 4])
    weights = [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")]
    sizes = helper.make_tensor_value_info("s", TensorProto.INT64, [2])
    scales = helper.make_tensor_value_info("sc", F32, [2])
    resize = helper.make_node("Resize", ["x", "", "sc"], ["y"], mode="nearest", name="rs")
    part = helper.make_node("Slice", ["x", "from", "to"], ["y"], name="sl")
    ends = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("from", 1), ("to", 3))]
    double = helper.make_tensor("w", TensorProto.DOUBLE, [4, 4], [1.0] * 16)
    matmul = [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")]
    custom = [helper.make_node("Foo", ["x"], ["y"], domain="my.ops", name="foo1")]
    unique = [
        helper.make_node("Unique", ["x"], ["u"], name="uniq"),
        helper.make_node("Unsqueeze", ["u", "zero"], ["y"]),
    ]
    relu = helper.make_node("Relu", ["x"], ["y"])
    return {
        "custom": save(custom, *static, name="custom.onnx"),
        "unsupported": save(unique, static[0], _io([1, "n"])[1], [numpy_helper.from_array(np.array([0], np.int64), "zero")], name="u.onnx"),
        "dynamic": save([relu], *dynamic, name="dynamic.onnx"),
        "sizes": save([helper.make_node("Reshape", ["x", "s"], ["y"])], [*static[0], sizes], _io(["a", "b"])[1], name="s.onnx"),
        "open sizes": save([helper.make_node("Reshape", ["x", "s"], ["y"])], [*static[0], _values("s", ["k"])], _io(["a", "b"])[1], name="o.onnx"),
        "ids": save([helper.make_node("Cast", ["s"], ["y"], to=F32)], [sizes], _io([2])[1], name="ids.onnx"),
        "float sizes": save([resize], [*static[0], scales], _io(["a", "b"])[1], name="r.onnx"),
        "slice": save([part], static[0], _io([2, 4])[1], ends, name="slice.onnx"),
        "int16": save([helper.make_node("Cast", ["x"], ["y"], to=F32)], _io([4], TensorProto.INT16)[0], _io([4])[1], name="i16.onnx"),
        "double": save(matmul, *_io([4, 4], TensorProto.DOUBLE), [double], name="double.onnx"),
        "gemm": save(matmul, *static, weights, name="gemm.onnx"),
    }  # fmt: skip


BAD: dict[str, tuple[Sizes, dict[str, Any], type[TrtActionError], str]] = {
    "custom": ({}, {}, BuildError, r"does not support operator `Foo` \(node `foo1`\) of `custom.onnx`"),
    "unsupported": ({}, {}, BuildError, r"does not support operator `Unique` \(node `uniq`\)"),
    "dynamic": ({}, {}, BuildError, r"Input `x` is dynamic \(\[-1, 4\]\) and has no shape range"),
    "dynamic/order": (
        {"x": {"min": [4, 4], "opt": [2, 4], "max": [8, 4]}}, {}, BuildError,
        r"does not fit: min \[4, 4\], opt \[2, 4\], max \[8, 4\]",
    ),
    "dynamic/rank": (fixed(x=[4]), {}, BuildError, r"the graph declares \[-1, 4\]"),
    "dynamic/axis": (fixed(x=[2, 5]), {}, BuildError, r"opt \[2, 5\], .* the graph declares \[-1, 4\]"),
    "sizes": ({}, {}, BuildError, "Input `s` holds sizes, not data"),
    "sizes/fewer": (holding("s", [[4], [4], [4]]), {}, BuildError, r"values of input `s` do not fit: .* it holds 2"),
    "sizes/order": (holding("s", [[4, 4], [2, 8], [16, 1]]), {}, BuildError, "values of input `s` do not fit: min"),
    "sizes/one": (holding("s", [[4, 5]] * 3), {}, BuildError, "cannot compute the shapes in `s.onnx`"),
    "sizes/opt": (holding("s", [[1, 1], [4, 5], [16, 16]]), {}, BuildError, "The `opt` shapes and values in `shapes` do not go together"),
    "open sizes": (holding("s", [[1, 1], [4, 4], [16, 16]]), {}, BuildError, "leaves open how many"),
    "ids": (holding("s", [[1, 1], [4, 4], [16, 16]]), {}, BuildError, "`values` of input `s`, which holds no sizes"),
    "float sizes": ({}, {}, BuildError, "Input `sc` of `r.onnx` holds sizes, not data, in a type that"),
    "slice": ({}, {}, BuildError, "cannot read `slice.onnx`: operator `Slice` .*misaligns with the shape of input axes"),
    "int16": ({}, {}, BuildError, "does not support an input, an output or a weight of `i16.onnx`"),
    "double": ({}, {}, BuildError, "`x` of `double.onnx` is float64"),
    "gemm/turing": ({}, {"compute_capabilities": ("7.5",)}, BuildError, r"7\.5: FP32 GEMM is not supported \(operation `mm`\)"),
    "gemm/target": ({}, {"compute_capabilities": ("9.0",)}, BuildError, r"names 9\.0; this library builds for 7\.5, 8\.0"),
    "gemm/lean": ({}, {"version_compatible": "with-lean"}, BackendUnavailableError, "needs its lean runtime"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_built_is_said_with_its_cause(save: Save, tmp_path: Path, case: str) -> None:
    shapes, changed, kind, words = BAD[case]
    path = _graphs(save)[case.partition("/")[0]]
    options = replace(OPTIONS, tensorrt=replace(ADA, **changed))
    with pytest.raises(kind, match=words) as caught:
        TensorRTRtxBackend().build(path, tmp_path, options, BuildContext(shapes=shapes))
    error: Any = caught.value
    assert error.fix
    assert "/_src/" not in f"{error.what} {error.why}"
    assert "driver" not in f"{error.what} {error.why}"  # there is none here, and it is not the cause
    assert ("`axes`" in error.fix) == (case == "slice")
    assert ('`shapes: {"s": {"values": {"min": […, …], "opt": […, …], "max": […, …]}}}`' in error.fix) == (
        case == "sizes"
    )
    assert not (tmp_path / "engine.plan").exists()


def test_a_refusal_names_the_model_of_the_user(save: Save, tmp_path: Path) -> None:
    """Not the file that it was prepared into."""
    with pytest.raises(BuildError, match=r"operator `Unique` \(node `uniq`\) of `.*u\.onnx`"):
        obtain(_graphs(save)["unsupported"], tmp_path, Recipe("fp32"))


@pytest.mark.parametrize("content", [b"", b"not a model at all" * 20])
def test_a_file_that_is_no_model_is_refused_although_it_parses(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"found no graph|cannot be read as an ONNX model"):
        TensorRTRtxBackend().build(path, tmp_path, OPTIONS, BuildContext())


def test_fp8_is_refused_for_gpus_without_it(conv: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, tensorrt=TensorRTOptions(compute_capabilities=("8.9", "8.0")))
    with pytest.raises(BackendUnavailableError, match=r"compute capability 8\.0 do not compute in fp8"):
        obtain(conv, tmp_path, Recipe("fp8"), options=options)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGKILL, OutOfMemoryError, r"was killed by the system \(SIGKILL\), most likely because memory ran out"),
        (signal.SIGSEGV, BuildError, "did not end well: .*SIGSEGV"),
    ],
)
def test_a_builder_that_dies_has_a_cause_and_a_next_step(
    tmp_path: Path, number: int, kind: type[TrtActionError], words: str
) -> None:
    block = nets.bert_block(tmp_path / "bert.onnx")
    (tmp_path / "out").mkdir()

    def kill(text: str, share: float | None) -> None:
        if text.startswith("Building engine"):
            for child in psutil.Process().children():
                child.send_signal(number)

    with pytest.raises(kind, match=words) as caught:
        building.compile_in_child(
            block, "tensorrt-rtx", OPTIONS, tmp_path / "out", timeout=60, shapes=fixed(x=[1, 128, 768]), progress=kill
        )
    assert "It ended during: Building engine" in caught.value.why
    assert ("`workspace`" if kind is OutOfMemoryError else "`optimization-level: 2`") in caught.value.fix


def test_progress_is_one_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    told: list[tuple[str, float | None]] = []
    context = BuildContext(shapes=fixed(x=[1, 128, 768]), progress=lambda text, share: told.append((text, share)))
    TensorRTRtxBackend().build(nets.bert_block(tmp_path / "bert.onnx"), tmp_path, OPTIONS, context)
    shares = [share for _, share in told if share is not None]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.2
    assert shares[-1] <= 1
    assert len(set(shares)) > 20
    assert all(text.startswith("Building engine") for text, _ in told)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tf32", [False, True])
def test_every_setting_reaches_the_builder(tf32: bool) -> None:
    """On a real configuration, read back."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    options = TensorRTOptions(
        optimization_level=5, tiling="full", aux_streams=2, timing_iterations=3, weight_streaming="auto",
        hardware_compatibility="ampere-plus", version_compatible="without-lean", compute_capabilities=("8.0", "12.0"),
    )  # fmt: skip
    warned: list[str] = []
    configure.apply(
        trt, config, options, tf32=tf32, workspace=1 << 28, built_on_the_gpu=True, warn=warned.append
    )  # fmt: skip
    flags = {name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)}
    assert ("TF32" in flags) == tf32
    assert {"WEIGHT_STREAMING", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= flags
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 28
    assert (config.builder_optimization_level, config.max_aux_streams, config.avg_timing_iterations) == (5, 2, 3)
    assert config.tiling_optimization_level == trt.TilingOptimizationLevel.FULL
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert [config.get_compute_capability(i).name for i in range(config.num_compute_capabilities)] == ["SM80", "SM120"]
    assert warned == []


def test_what_has_no_effect_is_noted(conv: Path, tmp_path: Path) -> None:
    warned: list[str] = []
    options = replace(OPTIONS, tensorrt=TensorRTOptions(hardware_compatibility="ampere-plus"))
    context = BuildContext(shapes=fixed(x=[1, 1, 8, 8]), warn=warned.append)
    TensorRTRtxBackend().build(conv, tmp_path, options, context)
    assert warned == [
        "`hardware-compatibility` has no effect with TensorRT for RTX: its targets are `compute-capabilities`."
    ]


def test_errors_of_a_build_that_ends_well_are_noted(
    conv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = log.logger

    def complaining(trt: Any, said: log.Log) -> Any:
        said.add("ERROR", "IBuilder::build: Error Code 2: OutOfMemory (A tactic was skipped. In x at /_src/y.cpp:3)")
        return made(trt, said)

    monkeypatch.setattr(log, "logger", complaining)
    warned: list[str] = []
    context = BuildContext(shapes=fixed(x=[1, 1, 8, 8]), warn=warned.append)
    TensorRTRtxBackend().build(conv, tmp_path, OPTIONS, context)
    assert warned == ["TensorRT for RTX built the engine, and reported errors (1 lines): A tactic was skipped."]


def test_what_decides_the_plan_is_in_the_key(conv: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10**9)
    keys = {}
    cases: dict[str, dict[str, Any]] = {
        "first": {}, "again": {}, "level": {"optimization_level": 1}, "target": {"compute_capabilities": ("12.0",)},
        "workspace": {"workspace": "64MB"}, "timings": {"timing_cache": False},
    }  # fmt: skip
    for name, changed in cases.items():
        options = replace(OPTIONS, tensorrt=replace(ADA, **changed))
        built = obtain(conv, tmp_path / name, Recipe("fp32"), cache=cache, options=options)
        keys[name] = (built.record.cache_key, built.record.from_cache)
    assert len({key for key, _ in keys.values()}) == 4
    assert [found for _, found in keys.values()] == [False, True, False, False, False, True]
    cache.release()
