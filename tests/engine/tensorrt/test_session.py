"""Sessions on the strict doubles: right values, right order, nothing left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.doubles.tensorrt import IExecutionContext, Network, Port
from tests.engine.tensorrt.conftest import Make, counting, doubling, positive, reshaping, scaling, x
from trt_action import engine
from trt_action.engine.backend import BuildContext, Loadable, RuntimeOptions
from trt_action.engine.tensorrt.backend import TensorRTRtxBackend
from trt_action.engine.tensorrt.loading import JIT_CACHE
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BackendUnavailableError, BuildError, DataError, OutOfMemoryError, TrtActionError


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
@pytest.mark.parametrize("rtx", [False, True])
def test_values_come_back(bench: Make, rtx: bool, transfers: bool, cuda_graph: bool) -> None:
    b = bench(doubling(), rtx=rtx)
    session = b.load(transfers=transfers, cuda_graph=cuda_graph)
    assert [(t.name, t.dtype, t.shape) for t in session.inputs] == [("x", "float32", (None, 3))]
    for rows in ((1, 2), (3, 4), (5, 6, 7), (8,)):
        session.bind(x(*rows))
        session.run()
        session.run()
        np.testing.assert_array_equal(session.fetch()["y"], 2 * x(*rows)["x"])
    own_graph = cuda_graph and not rtx  # TensorRT for RTX captures by itself
    assert len(b.gpu.calls("capture")) == (3 if own_graph else 0)  # one per set of shapes
    assert bool(b.gpu.calls("launch")) == own_graph
    assert b.gpu.pageable_copies == 0
    b.finish()


def test_a_warm_inference_allocates_and_copies_only_what_it_must(bench: Make) -> None:
    for transfers in (True, False):
        b = bench(doubling())
        session = b.load(transfers=transfers)
        session.bind(x(1, 2))
        session.run()
        b.gpu.log.clear()
        session.run()
        calls = [entry[0] for entry in b.gpu.log]
        assert calls == (["to_device", "to_host", "synchronize"] if transfers else ["synchronize"])
        session.bind(x(3, 4))  # same shapes: same buffers
        assert not b.gpu.calls("allocate")
        b.finish()


def test_device_times_are_the_events(bench: Make) -> None:
    b = bench(doubling())
    session = b.load()
    session.bind(x(1, 2))
    times = session.device_times(3)
    assert times is not None
    assert times.compute_ns == [500_000] * 3
    assert all(abs(ns - 10_000) < 100 for ns in times.h2d_ns + times.d2h_ns)
    assert len(times.enqueue_ns) == len(times.wall_ns) == 3
    b.finish()


def test_outputs_of_unknown_size_grow(bench: Make) -> None:
    b = bench(positive())
    for transfers in (True, False):
        session = b.load(transfers=transfers)
        for values in ([1, -1, 2, -3], [1, 2, 3, 4], [-1, -2, -3, -4]):
            feeds = {"x": np.array(values, np.float32)}
            session.bind(feeds)
            session.run()
            found = session.fetch()
            np.testing.assert_array_equal(found["large"], [value for value in values if value > 0])
            np.testing.assert_array_equal(found["sum"], [sum(values)])
        b.finish()
    session = b.load(cuda_graph=True)
    with pytest.raises(BuildError, match="`large` has a shape that is not known"):
        session.bind({"x": np.ones(4, np.float32)})
    b.finish()


def test_no_memory_for_a_growing_output_is_said(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(positive())
    session = b.load()
    session.bind({"x": np.ones(4, np.float32)})
    b.gpu.total = 1  # somebody else took it all
    with pytest.raises(OutOfMemoryError, match="ran out of memory"):
        session.run()
    b.gpu.total = 1 << 30
    session.run()  # there is memory again: an old failure is forgotten
    assert session.fetch()["large"].tolist() == [1, 1, 1, 1]
    b.finish()


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_inputs_that_hold_sizes_stay_on_the_host(bench: Make, cuda_graph: bool) -> None:
    b = bench(reshaping())
    session = b.load(cuda_graph=cuda_graph)
    data = np.arange(6, dtype=np.float32)
    for size in ([2, 3], [3, 2], [6, 1]):
        session.bind({"x": data, "size": np.array(size, np.int64)})
        session.run()
        np.testing.assert_array_equal(session.fetch()["y"], data.reshape(size))
    before = len(b.gpu.calls("allocate"))
    session.bind({"x": data + 1, "size": np.array([6, 1], np.int64)})  # as large as before: nothing is made anew
    session.run()
    np.testing.assert_array_equal(session.fetch()["y"], (data + 1).reshape(6, 1))
    assert len(b.gpu.calls("allocate")) == before
    assert session.layers(2) is not None
    b.finish()


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ([7, 1], r"`size` holds the sizes \[7, 1\]; the engine was built for values from \[1, 1\] to \[6, 6\]"),
        ([0, 6], r"`size` holds the sizes \[0, 6\]"),
        ([2, 2], "cannot run these sizes: reshape would change volume 6 to 4"),
    ],
)
@pytest.mark.parametrize("way", ["bind", "infer"])
def test_sizes_that_the_engine_does_not_take(bench: Make, way: str, size: list[int], words: str) -> None:
    b = bench(reshaping())
    session = b.load()
    data = np.arange(6, dtype=np.float32)
    good: dict[str, Any] = {"x": data, "size": np.array([2, 3], np.int64)}
    session.infer(good)
    for _ in range(2):
        with pytest.raises(DataError, match=words):
            getattr(session, way)({"x": data, "size": np.array(size, np.int64)})
        with pytest.raises(BuildError):
            session.run()
    np.testing.assert_array_equal(session.infer(good)["y"], data.reshape(2, 3))
    b.finish()


def test_a_single_number_is_a_size_and_an_output_may_be_one(bench: Make) -> None:
    """Not one buffer of the inputs is on the device; `twice` is written by the host, when shapes are inferred."""
    b = bench(counting())
    session = b.load()
    for limit in (3, 1, 64):
        outputs = session.infer({"limit": np.array(limit, np.int32)})
        assert outputs["y"].tolist() == list(range(limit))
        assert outputs["twice"] == 2 * limit
        assert outputs["twice"].shape == ()
    with pytest.raises(DataError, match=r"`limit` holds the sizes \[65\]; .* from \[1\] to \[64\]"):
        session.bind({"limit": np.array(65, np.int32)})
    session.bind({"limit": np.array(2, np.int32)})
    assert session.device_times(2) is not None
    b.finish()


def test_a_single_number_on_the_device(bench: Make) -> None:
    b = bench(scaling())
    outputs = b.load().infer({"x": np.array(3, np.float32)})
    assert outputs["y"] == 6
    session = b.load()
    session.bind({"x": np.array(4, np.float32)})
    session.run()
    assert session.fetch()["y"].shape == ()
    b.finish()


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        (x(*range(9)), r"`x` has shape \[9, 3\]; the engine was built for \[1, 3\] to \[8, 3\]"),
        ({"x": np.ones((2, 4), np.float32)}, r"takes shape \[\?, 3\]"),
        ({"x": np.ones((2, 3))}, "takes float32, the data are float64"),
        ({}, "No data for input `x`"),
    ],
)
def test_feeds_that_do_not_fit(bench: Make, feeds: Any, words: str) -> None:
    b = bench(doubling())
    session = b.load()
    with pytest.raises(DataError, match=words):
        session.bind(feeds)
    session.bind(x(1))  # and it can go on
    session.run()
    assert session.fetch()["y"][0, 0] == 2
    b.finish()


def test_layers_are_looked_at_in_a_context_of_their_own(bench: Make) -> None:
    b = bench(doubling())
    session = b.load(cuda_graph=True)
    session.bind(x(1, 2))
    raw = session.layers(4)
    assert raw is not None
    assert raw.source == "tensorrt-inspector"
    assert raw.runs == (b.trt.network.layers,) * 4
    assert json.loads(raw.document)["Layers"][0] == {"Name": "conv1 + relu1", "Shapes": "set"}
    session.run()
    assert session.fetch()["y"][1, 0] == 4
    b.finish()


def test_a_refused_inference_and_use_after_close(bench: Make) -> None:
    b = bench(doubling())
    session = b.load()
    with pytest.raises(BuildError, match="before its inputs were bound"):
        session.run()
    session.bind(x(1))
    b.trt.network.refuses = "Something is wrong."
    with pytest.raises(BuildError, match=r"could not run `engine\.plan`: Something is wrong"):
        session.run()
    b.finish()
    session.close()  # twice is fine
    for use in (session.run, session.fetch, lambda: session.device_times(1), lambda: session.bind(x(1))):
        with pytest.raises(BuildError):
            use()


def _loading(b: Any, plan: bytes | None, **more: Any) -> TrtActionError:
    with pytest.raises(TrtActionError) as caught:
        b.load(plan, **more)
    b.finish()
    return caught.value


def test_a_plan_is_loaded_only_if_its_digest_was_recorded(bench: Make) -> None:
    b = bench(doubling())
    assert "nothing says who built it" in _loading(b, None, sha256=None).what
    changed = _loading(b, None, sha256=hashlib.sha256(b"another").hexdigest())
    assert "its bytes are not those that were recorded" in changed.what
    assert isinstance(changed, BuildError)
    (b.folder / JIT_CACHE).write_bytes(b"slipped in")  # kernels are code too
    assert "its bytes are not those that were recorded" in _loading(b, None).what


def test_what_the_header_says_is_refused_before_loading(bench: Make) -> None:
    b = bench(doubling(), version="11.4.0.106")
    b.trt.Runtime = None  # type: ignore[assignment] # never reached
    wrong = _loading(b, b.trt.plan(magic=b"vtrt"))
    assert wrong.what == "`engine.plan` is a plan of TensorRT for RTX; backend `tensorrt` cannot load it."
    older = _loading(b, b.trt.plan(version="10.16.1.11"))
    assert older.what == "`engine.plan` was built by TensorRT 10.16.1.11; TensorRT 11.4.0.106 is installed."
    newer = _loading(b, b.trt.plan(version="11.5.0.1"), tensorrt=TensorRTOptions(version_compatible="with-lean"))
    assert "11.5.0.1" in newer.what
    assert "is not a TensorRT plan" in _loading(b, b"ONNX, really").what


def test_a_version_compatible_plan_loads_with_its_own_runtime(bench: Make) -> None:
    b = bench(doubling())
    plan = b.trt.plan(version="10.16.1.11")
    session = b.load(plan, tensorrt=TensorRTOptions(version_compatible="with-lean"))
    session.bind(x(1))
    b.finish()


def test_why_a_plan_does_not_load(bench: Make) -> None:
    b = bench(doubling(), capability=(8, 0))
    other = _loading(b, None)
    assert other.what == "`engine.plan` was built for another GPU than the one that is here."
    assert "The GPU is Fake GPU." in other.why
    for total in (1 << 10, (1 << 12) + 100):  # not even the weights; the weights and nothing else
        error = _loading(bench(doubling(), total=total), None)
        assert isinstance(error, OutOfMemoryError), total
    assert "Magic tag" in _loading(bench(doubling()), bench(doubling()).trt.plan(content=b"damaged")).what


def test_rtx_does_not_run_on_every_gpu(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(doubling(), rtx=True, version="1.7.1.116")
    monkeypatch.setattr(type(b.gpu), "capability", lambda self: (9, 0))
    monkeypatch.setattr(type(b.gpu), "name", lambda self: "NVIDIA H200")
    error = _loading(b, None)
    assert isinstance(error, BackendUnavailableError)
    assert error.what == (
        "TensorRT for RTX 1.7.1.116 does not run on this GPU: NVIDIA H200 has compute capability 9.0, it supports "
        "8.0, 8.9, 12.0."
    )
    monkeypatch.setattr(type(b.gpu), "capability", lambda self: (8, 9))
    there = _loading(b, None, tensorrt=TensorRTOptions(compute_capabilities=("12.0",)))
    assert there.what == "The engine was built for compute capability 12.0; NVIDIA H200 has 8.9."


def test_rtx_compiles_once_and_ships_what_it_compiled(bench: Make, tmp_path: Path) -> None:
    b = bench(doubling(), rtx=True, version="1.7.1.116")
    plan = b.write()
    context = BuildContext(shapes={"x": {"min": (1, 3), "opt": (2, 3), "max": (8, 3)}})
    TensorRTRtxBackend()._compile(b.trt, plan, RuntimeOptions(device="cuda:0"), context)
    assert ("compiled",) in b.trt.log
    kernels = plan.with_name(JIT_CACHE).read_bytes()
    assert kernels
    assert engine.backend("tensorrt-rtx").files(plan) == ["engine.plan", JIT_CACHE]
    sums = {name: hashlib.sha256(plan.with_name(name).read_bytes()).hexdigest() for name in ("engine.plan", JIT_CACHE)}
    listing = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    digest = hashlib.sha256(listing.encode()).hexdigest()
    for kept, compiles in ((kernels, False), (b"of another driver", True)):
        b.trt.log.clear()
        plan.with_name(JIT_CACHE).write_bytes(kept)
        if compiles:
            sums[JIT_CACHE] = hashlib.sha256(kept).hexdigest()
            digest = hashlib.sha256("".join(f"{sums[n]}  {n}\n" for n in sorted(sums)).encode()).hexdigest()
        options = RuntimeOptions(device="cuda:0", cuda_graph=True)
        session = engine.backend("tensorrt-rtx").load(Loadable("tensorrt-rtx", plan, options, sha256=digest))
        session.bind(x(1))
        session.run()
        assert session.fetch()["y"][0, 0] == 2
        session.close()
        assert (("compiled",) in b.trt.log) == compiles
        assert ("context", "WHOLE_GRAPH_CAPTURE", "EAGER") in b.trt.log
    b.finish()


@pytest.mark.parametrize(("asked", "bytes_"), [("auto", 1024), ("50%", 1024), ("1kB", 1000), ("1GB", 2048)])
def test_weight_streaming_has_a_budget(bench: Make, asked: str, bytes_: int) -> None:
    b = bench(doubling())
    b.load(tensorrt=TensorRTOptions(weight_streaming=asked))
    assert b.trt.log == [("budget", bytes_)]
    b.finish()


@pytest.mark.parametrize("transfers", [False, True])
@pytest.mark.parametrize("rtx", [False, True])
def test_a_server_that_has_seen_the_largest_batch_allocates_nothing(bench: Make, rtx: bool, transfers: bool) -> None:
    b = bench(doubling(), rtx=rtx)
    session = b.load(transfers=transfers)
    kept = session.infer(x(*range(8)))["y"]
    b.gpu.log.clear()
    for _ in range(2):
        for rows in ((1,), (1, 2, 3), (5, 6), tuple(range(8))):
            np.testing.assert_array_equal(session.infer(x(*rows))["y"], 2 * x(*rows)["x"])
    for call in ("allocate", "pinned", "free", "free_pinned", "stream"):
        assert b.gpu.calls(call) == [], call
    assert b.gpu.pageable_copies == 0
    np.testing.assert_array_equal(kept, 2 * x(*range(8))["x"])  # the answer to the first request is still its own
    b.finish()


def test_serving_and_measuring_may_take_turns(bench: Make) -> None:
    b = bench(doubling())
    session = b.load()
    for rows in ((1, 2), (3,), (4, 5, 6)):
        session.bind(x(*rows))
        session.run()
        np.testing.assert_array_equal(session.fetch()["y"], 2 * x(*rows)["x"])
        np.testing.assert_array_equal(session.infer(x(7))["y"], 2 * x(7)["x"])
        np.testing.assert_array_equal(session.infer(x(*rows))["y"], 2 * x(*rows)["x"])
        with pytest.raises(BuildError, match="before its inputs were bound"):
            session.run()  # and not with the buffers of somebody else
    b.finish()


@pytest.mark.parametrize("way", ["bind", "infer"])
def test_shapes_that_do_not_fit_leave_nothing_half_done(bench: Make, way: str) -> None:
    b = bench(doubling())
    session = b.load()
    session.infer(x(1, 2))
    for _ in range(2):
        with pytest.raises(DataError, match="the engine was built for"):
            getattr(session, way)(x(*range(9)))
        with pytest.raises(BuildError):
            session.run()
    np.testing.assert_array_equal(session.infer(x(1, 2))["y"], 2 * x(1, 2)["x"])
    b.finish()


def test_serving_what_has_no_size_before(bench: Make) -> None:
    b = bench(positive())
    session = b.load()
    for values in ([1, -1, 2, -3], [1, 2, 3, 4]):
        found = session.infer({"x": np.array(values, np.float32)})["large"]
        np.testing.assert_array_equal(found, [value for value in values if value > 0])
    b.finish()
    b = bench(reshaping())
    session = b.load()
    data = np.arange(6, dtype=np.float32)
    for size in ([2, 3], [6, 1]):
        found = session.infer({"x": data, "size": np.array(size, np.int64)})["y"]
        np.testing.assert_array_equal(found, data.reshape(size))
    b.finish()
    b = bench(doubling())
    session = b.load(cuda_graph=True)
    for rows in ((1,), (1, 2), (3, 4)):
        np.testing.assert_array_equal(session.infer(x(*rows))["y"], 2 * x(*rows)["x"])
    assert len(b.gpu.calls("capture")) == 2
    b.finish()


def test_no_memory_for_a_larger_request_is_said_and_the_smaller_ones_go_on(bench: Make) -> None:
    b = bench(doubling())
    session = b.load()
    session.infer(x(1))
    total, b.gpu.total = b.gpu.total, b.gpu.total - b.gpu.memory()[0] + 20
    with pytest.raises(OutOfMemoryError):
        session.infer(x(*range(8)))
    np.testing.assert_array_equal(session.infer(x(2))["y"], 2 * x(2)["x"])
    b.gpu.total = total
    np.testing.assert_array_equal(session.infer(x(*range(8)))["y"], 2 * x(*range(8))["x"])
    b.finish()


def test_bfloat16_is_served(bench: Make) -> None:
    kind = np.dtype(ml_dtypes.bfloat16)
    b = bench(
        Network(
            inputs=(Port("x", "BF16", (-1, 2), ((1, 2), (1, 2), (4, 2))),),
            outputs=(Port("y", "BF16", (-1, 2)),),
            function=lambda feeds: {"y": feeds["x"] + feeds["x"]},
            shapes=lambda shapes, values: {"y": shapes["x"]},
        )
    )
    session = b.load()
    assert [tensor.dtype for tensor in (*session.inputs, *session.outputs)] == ["bfloat16", "bfloat16"]
    for rows in (3, 1):
        found = session.infer({"x": np.full((rows, 2), 1.5, kind)})["y"]
        assert found.dtype == kind
        assert found.tolist() == [[3, 3]] * rows
    b.finish()


@pytest.mark.parametrize("way", ["bind", "infer", "run", "layers"])
def test_who_closes_because_of_a_failure_closes_in_order(bench: Make, way: str) -> None:
    """As a worker does: `finally: session.close()`, while the exception still holds where it came from."""
    b = bench(doubling())
    session = b.load()
    session.bind(x(1))
    if way in ("run", "layers"):
        b.trt.network.refuses = "no"
    calls: dict[str, Callable[[], object]] = {
        "bind": lambda: session.bind(x(*range(9))),
        "infer": lambda: session.infer(x(*range(9))),
        "run": session.run,
        "layers": lambda: session.layers(3),
    }
    with pytest.raises(TrtActionError), contextlib.closing(session):
        calls[way]()
    assert b.trt.violations == []


def test_a_failure_is_not_explained_by_an_earlier_one(bench: Make) -> None:
    b = bench(doubling())
    session = b.load()
    with pytest.raises(DataError):
        session.bind(x(*range(9)))
    session.bind(x(1))
    for words in ("cudaErrorLaunchTimeout", "something else"):
        b.trt.network.refuses = words
        with pytest.raises(BuildError, match=words) as caught:
            session.run()
        assert caught.value.why == ""
        del caught
    b.finish()


@pytest.mark.parametrize("call", ["set_tensor_address", "set_output_allocator"])
def test_an_address_that_is_refused_is_an_error(bench: Make, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    b = bench(positive())
    session = b.load()
    monkeypatch.setattr(IExecutionContext, call, lambda self, name, given: self._refuse(f"{call} said no"))
    with pytest.raises(BuildError, match=f"{call} said no"):
        session.bind({"x": np.ones(4, np.float32)})
    b.finish()


def test_a_driver_that_is_too_old_is_said_before_the_library_crashes(bench: Make) -> None:
    b = bench(doubling(), cuda_error=35)
    error = _loading(b, None)
    assert isinstance(error, BackendUnavailableError)
    assert (
        error.what == "TensorRT 11.4.0.106 could not load `engine.plan`: the GPU's driver is missing or too old for it."
    )
    assert "CUDA 13 need driver 580" in error.fix
    assert b.trt.violations == []
