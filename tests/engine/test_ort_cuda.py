"""The CUDA session on a GPU in memory: what is copied when, what is timed, what is freed; and no silent fall-back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.doubles.cuda import FakeCuda
from tests.doubles.ort_cuda import FakeOrtSession
from trt_action import engine
from trt_action.engine import ort_cuda
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.ort_cuda_session import OnnxRuntimeCudaSession
from trt_action.errors import BackendUnavailableError, BuildError, DataError, OutOfMemoryError

GPU = RuntimeOptions(threads=1, device="cuda:0")
F32 = TensorProto.FLOAT
Opened = Callable[..., OnnxRuntimeCudaSession]


@pytest.fixture
def gpu() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def opened(gpu: FakeCuda) -> Opened:
    def make(path: Path, **options: Any) -> OnnxRuntimeCudaSession:
        def open_session(stream: int, folder: Path | None) -> FakeOrtSession:
            return FakeOrtSession(path, gpu, stream)

        return OnnxRuntimeCudaSession(onnxruntime, gpu, RuntimeOptions(device="cuda:0", **options), open_session)

    return make


def x(batch: int = 2, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((batch, 1, 8, 8), dtype=np.float32)}


def on_cpu(path: Path, feeds: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.fixture
def nonzero(save: Callable[..., Path]) -> Path:
    """`x` float32 [6] -> `y` int64 [1, n]: where it is not zero; the size follows from the values."""
    return save(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", F32, [6])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, "n"])],
    )


@pytest.mark.parametrize("transfers", [True, False])
def test_the_same_numbers_as_on_the_cpu(conv: Path, opened: Opened, gpu: FakeCuda, transfers: bool) -> None:
    session = opened(conv, transfers=transfers)
    for batch in (2, 3):
        session.bind(x(batch))
        session.run()
        np.testing.assert_array_equal(session.fetch()["y"], on_cpu(conv, x(batch)))
    session.bind(x(3, seed=1))  # the same shapes: the same buffers
    session.run()
    np.testing.assert_array_equal(session.fetch()["y"], on_cpu(conv, x(3, seed=1)))
    session.close()
    assert not gpu.leaks()
    assert gpu.pageable_copies == 0


@pytest.mark.parametrize(("transfers", "kinds"), [(True, ["to_device", "kernel", "to_host"]), (False, ["kernel"])])
def test_what_an_inference_consists_of(
    conv: Path, opened: Opened, gpu: FakeCuda, transfers: bool, kinds: list[str]
) -> None:
    session = opened(conv, transfers=transfers)
    session.bind(x())
    gpu.done.clear()
    session.run()
    assert gpu.done == kinds  # and done it is: `run` has waited


def test_a_loop_may_hold_run_across_shapes(conv: Path, opened: Opened) -> None:
    session = opened(conv)
    session.bind(x(1))
    run = session.run
    session.bind(x(4))
    run()
    assert session.fetch()["y"].shape == (4, 8)


def test_times_are_those_of_the_gpu(conv: Path, opened: Opened, gpu: FakeCuda) -> None:
    session = opened(conv)
    session.bind(x())
    times = session.device_times(3)
    assert times is not None
    assert times.compute_ns == [2_000_000] * 3
    copies = round((gpu.copy_ms + 2 * 64 * 4 * gpu.ms_per_byte) * 1e6)
    assert times.h2d_ns == [copies] * 3
    assert len(times.enqueue_ns) == len(times.wall_ns) == 3
    events = len(gpu.calls("event"))
    session.device_times(3)
    assert len(gpu.calls("event")) == events  # made once
    session.close()
    assert not gpu.leaks()


def test_without_transfers_their_times_are_zero(conv: Path, opened: Opened) -> None:
    session = opened(conv, transfers=False)
    session.bind(x())
    times = session.device_times(2)
    assert times is not None
    assert times.h2d_ns == times.d2h_ns == [0, 0]


def test_a_replayed_graph_has_no_enqueue_time(conv: Path, opened: Opened) -> None:
    session: Any = opened(conv, cuda_graph=True)
    session.bind(x())
    times = session.device_times(2)
    assert times is not None
    assert times.enqueue_ns == []
    session.bind(x(5))
    session.run()
    assert set(session._session.graph_ids) == {"1", "2"}  # other buffers, another graph


def test_sizes_that_follow_from_the_values(nonzero: Path, opened: Opened, gpu: FakeCuda) -> None:
    session: Any = opened(nonzero)
    for values in ([1, 0, 0, 2, 0, 0], [0, 1, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0]):
        session.bind({"x": np.array(values, dtype=np.float32)})
        session.run()
        assert session.fetch()["y"].tolist() == [[i for i, value in enumerate(values) if value]]
    session._session.release()
    session.close()
    assert not gpu.leaks()


def test_a_graph_needs_sizes_that_are_known(nonzero: Path, opened: Opened) -> None:
    session = opened(nonzero, cuda_graph=True)
    with pytest.raises(BuildError, match="`y`") as caught:
        session.bind({"x": np.ones(6, dtype=np.float32)})
    assert "cuda-graph: false" in caught.value.fix


def test_wrong_feeds_and_memory_that_runs_out(conv: Path, opened: Opened, gpu: FakeCuda) -> None:
    session = opened(conv)
    with pytest.raises(DataError):
        session.bind({"x": np.zeros((1, 1, 8, 8), dtype=np.float64)})
    gpu.total = 1_000
    with pytest.raises(OutOfMemoryError):
        session.bind(x(64))
    gpu.total = 1 << 30
    session.bind(x(64))
    session.run()
    session.close()
    assert not gpu.leaks()
    with pytest.raises(BuildError, match="closed"):
        session.run()


def test_a_session_that_cannot_be_made_leaves_nothing(gpu: FakeCuda) -> None:
    def refuse(stream: int, folder: Path | None) -> Any:
        raise BuildError("no")

    with pytest.raises(BuildError):
        OnnxRuntimeCudaSession(onnxruntime, gpu, GPU, refuse)
    assert not gpu.leaks()


def test_every_option_is_said() -> None:
    options = ort_cuda.provider_options(RuntimeOptions(device="cuda:1", tf32=True, cuda_graph=True), 77)
    assert options == {
        "device_id": "1",
        "use_tf32": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": "1",
        "user_compute_stream": "77",
    }
    assert ort_cuda.provider_options(GPU, 0)["use_tf32"] == "0"


def test_a_silent_fall_back_is_refused() -> None:
    ort = SimpleNamespace(__version__="1.31.1", __file__="/nowhere/onnxruntime/__init__.py")
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match="without a word") as caught:
        ort_cuda.verify(session, ort)
    assert "libonnxruntime_providers_shared" in caught.value.why


@pytest.mark.skipif(ort_cuda.available(onnxruntime), reason="this ONNX Runtime has the CUDA provider")
def test_a_library_without_the_provider_says_so(conv: Path) -> None:
    backend = engine.backend("onnxruntime")
    with pytest.raises(BackendUnavailableError, match="no CUDA provider") as caught:
        backend.load(Loadable("onnxruntime", conv, GPU))
    assert "onnxruntime-gpu" in caught.value.fix


def test_nodes_on_the_cpu_are_told() -> None:
    def part(provider: str, *operators: str) -> Any:
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: [SimpleNamespace(op_type=o) for o in operators])

    def session(*parts: Any) -> Any:
        return SimpleNamespace(get_provider_graph_assignment_info=lambda: list(parts))

    gpu = part(ort_cuda.PROVIDER, "Conv", "Relu")
    assert ort_cuda.placement_note(session(gpu)) == ""
    note = ort_cuda.placement_note(session(gpu, part("CPUExecutionProvider", "Shape", "Gather", "Shape")))
    assert note.startswith("3 nodes run on the CPU, not on the GPU (2 Shape, Gather)")
    assert "does not tell" in ort_cuda.placement_note(SimpleNamespace())


def test_precisions_of_the_devices() -> None:
    backend = engine.backend("onnxruntime")
    backend.check_precision("tf32", GPU)
    backend.check_precision("bf16", GPU)
    for precision in ("bf16", "tf32"):
        with pytest.raises(BackendUnavailableError, match="on the CPU"):
            backend.check_precision(precision, RuntimeOptions())
    with pytest.raises(BackendUnavailableError, match="on the GPU"):
        backend.check_precision("fp8", GPU)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_server_that_has_seen_the_largest_batch_allocates_nothing(
    conv: Path, opened: Opened, gpu: FakeCuda, cuda_graph: bool
) -> None:
    session: Any = opened(conv, cuda_graph=cuda_graph)
    kept = session.infer(x(8))["y"]
    gpu.log.clear()
    for seed in (1, 2):
        for batch in (1, 3, 8, 2):
            np.testing.assert_array_equal(session.infer(x(batch, seed))["y"], on_cpu(conv, x(batch, seed)))
    for call in ("allocate", "pinned", "free", "free_pinned"):
        assert gpu.calls(call) == [], call
    np.testing.assert_array_equal(kept, on_cpu(conv, x(8)))
    if cuda_graph:
        assert len(set(session._session.graph_ids)) == 4  # one recording per set of shapes
    session.bind(x(2))
    session.run()
    np.testing.assert_array_equal(session.fetch()["y"], session.infer(x(2))["y"])
    session.close()
    assert not gpu.leaks()
    assert gpu.pageable_copies == 0
    with pytest.raises(BuildError, match="closed"):
        session.infer(x(2))


def test_serving_what_has_no_size_before(nonzero: Path, opened: Opened, gpu: FakeCuda) -> None:
    session: Any = opened(nonzero)
    for values in ([1, 0, 0, 2, 0, 0], [1, 1, 1, 1, 0, 0]):
        found = session.infer({"x": np.array(values, dtype=np.float32)})["y"]
        assert found.tolist() == [[i for i, value in enumerate(values) if value]]
    session._session.release()
    session.close()
    assert not gpu.leaks()


def test_no_memory_for_a_larger_request_is_said_and_the_smaller_ones_go_on(
    conv: Path, opened: Opened, gpu: FakeCuda
) -> None:
    session: Any = opened(conv)
    session.infer(x(1))
    gpu.total = 4_000
    with pytest.raises(OutOfMemoryError):
        session.infer(x(64))
    np.testing.assert_array_equal(session.infer(x(2))["y"], on_cpu(conv, x(2)))
    session.close()
    assert not gpu.leaks()
