"""ONNX Runtime's CUDA provider: right numbers in every precision, in memory and on a stream of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import trt_action.model as models
from tests.gpu.conftest import GPU, Make, feeds, plain
from trt_action import data, engine
from trt_action.engine import cuda, devices, ort_cuda
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.errors import BackendUnavailableError, BuildError, OutOfMemoryError
from trt_action.precision import Recipe

pytestmark = pytest.mark.usefixtures("needs_onnxruntime")


def load(loadable: Loadable) -> Any:
    return engine.backend(loadable.backend).load(loadable)


def on_cpu(path: Path, given: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]


def difference(output: Any, reference: Any) -> float:
    return float(np.linalg.norm(output - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
def test_the_numbers_of_the_cpu(convs: Make, transfers: bool, cuda_graph: bool) -> None:
    path = convs()
    session = load(plain(path, transfers=transfers, cuda_graph=cuda_graph))
    for batch in (2, 5, 2):
        session.bind(feeds(batch))
        for _ in range(4):  # recorded, then replayed
            session.run()
        assert difference(session.fetch()["y"], on_cpu(path, feeds(batch))) < 1e-4
    other = {"x": 2 * feeds(2)["x"]}
    session.bind(other)
    session.run()
    assert difference(session.fetch()["y"], on_cpu(path, other)) < 1e-4
    session.close()


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_serving_every_batch_size_without_taking_memory(convs: Make, cuda_graph: bool) -> None:
    path = convs()
    session, gpu = load(plain(path, cuda_graph=cuda_graph)), cuda.cuda(0)
    for batch in (8, *range(1, 8)):  # recorded, and the arena's memory taken
        session.infer(feeds(batch))
    free = gpu.memory()[0]
    for batch in (3, 8, 1, 5, 3):
        given = {"x": batch * feeds(batch)["x"]}
        assert difference(session.infer(given)["y"], on_cpu(path, given)) < 1e-4
    assert free - gpu.memory()[0] < 4 << 20  # CUDA tells the whole GPU's memory, and takes some itself; a batch is 2 MB
    session.close()


def test_fp32_is_not_tf32(convs: Make) -> None:
    path, given = convs(depth=8), feeds()
    errors = {}
    for tf32 in (False, True):
        session = load(plain(path, tf32=tf32))
        session.bind(given)
        session.run()
        errors[tf32] = difference(session.fetch()["y"], on_cpu(path, given))
        session.close()
    assert errors[False] < 2e-5
    if float(devices.facts(0).capability) < 8:
        pytest.skip("TF32 needs compute capability 8.0")
    assert errors[True] > 2 * errors[False]


@pytest.mark.parametrize(
    ("precision", "limit"), [("fp32", 1e-4), ("tf32", 5e-3), ("fp16", 5e-3), ("bf16", 5e-2), ("int8", 0.1)]
)
def test_every_precision_builds_loads_and_is_near(convs: Make, tmp_path: Path, precision: Any, limit: float) -> None:
    path = convs()
    model = models.load(path, label="convs", name=None, shapes=None, batch_size=2)
    samples = data.synthetic(model.info, 16, 0)
    with engine.Cache(None, 0) as cache:
        try:
            built = engine.obtain(
                model,
                Recipe(precision=precision),
                samples if precision == "int8" else None,
                backend="onnxruntime",
                options=RuntimeOptions(threads=1, device="cuda:0", tf32=precision == "tf32"),
                cache=cache,
                work_dir=tmp_path / "work",
                timeout=300,
            )
        except BuildError as error:
            if precision != "bf16" or "implementation" not in error.what:
                raise
            pytest.skip(error.what)  # its CUDA kernels know bfloat16 for some operators only
    session = load(built.loadable)
    session.bind(feeds())
    session.run()
    found = difference(session.fetch()["y"].astype(np.float32), on_cpu(path, feeds()))
    session.close()
    assert 0 <= found < limit


def test_times_of_the_parts(convs: Make) -> None:
    session = load(plain(convs(depth=8)))
    session.bind(feeds(16))
    for _ in range(20):
        session.run()
    times = session.device_times(10)
    assert min(times.h2d_ns) > 0
    assert min(times.compute_ns) > 0
    assert min(times.d2h_ns) > 0
    for h2d, compute, d2h, wall in zip(times.h2d_ns, times.compute_ns, times.d2h_ns, times.wall_ns, strict=True):
        assert h2d + compute + d2h <= wall
    assert all(0 < enqueue < wall for enqueue, wall in zip(times.enqueue_ns, times.wall_ns, strict=True))
    session.close()


def test_sizes_that_follow_from_the_values(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"])],
        "nonzero",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, "n"])],
    )
    path = tmp_path / "nonzero.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    session = load(plain(path))
    for values in ([1, 0, 0, 2, 0, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 5]):
        session.bind({"x": np.array(values, dtype=np.float32)})
        session.run()
        assert session.fetch()["y"].tolist() == [[i for i, value in enumerate(values) if value]]
    session.close()


def test_what_runs_on_the_cpu_is_told(convs: Make) -> None:
    session = load(plain(convs()))
    session.bind(feeds())
    found = ort_cuda.on_other_providers(session._session)
    session.close()
    if found is None:
        pytest.skip("this ONNX Runtime does not tell (1.24 or newer does)")
    assert "Conv" not in found


def test_memory_that_is_not_there(convs: Make) -> None:
    session = load(plain(convs(depth=1, width=64)))
    with pytest.raises(OutOfMemoryError):
        session.bind({"x": np.broadcast_to(np.float32(0), (1 << 24, 64, 32, 32))})
    session.bind(feeds())
    session.run()
    session.close()


def test_a_gpu_that_is_not_there(convs: Make) -> None:
    with pytest.raises(BackendUnavailableError, match="no GPU 99"):
        load(plain(convs(), device="cuda:99"))


def test_an_engine_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(BuildError):
        load(Loadable("onnxruntime", tmp_path / "engine.onnx", GPU))


def test_the_profiler_is_a_pass_of_its_own(convs: Make) -> None:
    session = load(plain(convs()))
    session.bind(feeds())
    session.run()
    found = session.layers(5)
    assert found is not None
    assert "conv0" in found.document
    session.run()
    session.close()
