"""The CPU backend on real models: results, bytes, bad input, and what `run` costs."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engine.conftest import F32, Save
from trt_action import engine
from trt_action.engine.backend import Loadable, RuntimeOptions, Session, infer
from trt_action.engine.onnxruntime import ENGINE, ENGINE_DATA, OnnxRuntimeBackend, _refusal
from trt_action.errors import BackendUnavailableError, BuildError, DataError, OutOfMemoryError, StorageError

ONE = RuntimeOptions(threads=1)
value_info, node = helper.make_tensor_value_info, helper.make_node


def load(path: Path, *, prepared: bool = False, options: RuntimeOptions = ONE) -> Session:
    return OnnxRuntimeBackend().load(Loadable("onnxruntime", path, options, prepared))


def once(session: Session, **feeds: Any) -> dict[str, Any]:
    session.bind(feeds)
    session.run()
    return session.fetch()


def build(path: Path, folder: Path, options: RuntimeOptions = ONE) -> Path:
    folder.mkdir()
    return OnnxRuntimeBackend().build(path, folder, options)


def images(n: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(n, 1, 8, 8)).astype(np.float32)


def test_engine_computes_what_the_model_computes_and_keeps_its_interface(conv: Path, tmp_path: Path) -> None:
    built = load(build(conv, tmp_path / "out"), prepared=True)
    plain = load(conv, options=RuntimeOptions(threads=1, graph_optimization="disabled"))
    assert (built.inputs, built.outputs) == (plain.inputs, plain.outputs)
    assert built.inputs[0].shape == ("N", 1, 8, 8)
    expected = onnxruntime.InferenceSession(str(conv)).run(None, {"x": images(3)})[0]
    for session in (built, plain):
        np.testing.assert_allclose(once(session, x=images(3))["y"], expected, rtol=1e-4, atol=1e-6)


def test_optimisation_happens_at_build_and_not_at_load(conv: Path, tmp_path: Path) -> None:
    import onnx

    kinds = {
        level: [n.op_type for n in onnx.load(build(conv, tmp_path / level, RuntimeOptions(1, level))).graph.node]
        for level in ("disabled", "all")
    }
    assert kinds["disabled"] == ["Conv", "Relu", "GlobalAveragePool", "Flatten"]
    assert "Relu" not in kinds["all"]


def test_bytes_are_the_same_in_another_process_and_folder(conv: Path, tmp_path: Path) -> None:
    first = build(conv, tmp_path / "first")
    (tmp_path / "second").mkdir()
    code = (
        "import sys, pathlib as p; from trt_action.engine.onnxruntime import OnnxRuntimeBackend as B;"
        "from trt_action.engine.backend import RuntimeOptions as R; B().build(p.Path(sys.argv[1]), p.Path(sys.argv[2]), R(2))"
    )
    subprocess.run([sys.executable, "-c", code, str(conv), str(tmp_path / "second")], check=True)
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in (first, tmp_path / "second" / ENGINE)}
    assert len(digests) == 1


def test_external_weights_are_built_into_an_engine_that_stands_alone(save: Save, tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.full((64, 64), 0.5, np.float32), "w")
    io = [value_info("x", F32, ["N", 64])], [value_info("y", F32, ["N", 64])]
    path = save([node("MatMul", ["x", "w"], ["y"])], *io, [weights], external=True)
    built = build(path, tmp_path / "out")
    (tmp_path / "model.onnx.data").unlink()
    assert {file.name for file in built.parent.iterdir()} == {ENGINE, ENGINE_DATA}
    assert once(load(built, prepared=True), x=np.ones((1, 64), np.float32))["y"][0, 0] == 32


def test_new_data_of_the_same_shape_and_of_another(conv: Path) -> None:
    session = load(conv)
    expected = onnxruntime.InferenceSession(str(conv))
    first = once(session, x=images(2, seed=1))["y"]
    kept = first.copy()
    for n, seed in ((2, 2), (5, 3), (0, 0), (2, 4)):
        want = expected.run(None, {"x": images(n, seed)})[0]
        np.testing.assert_allclose(once(session, x=images(n, seed))["y"], want, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(first, kept)  # what was fetched is a copy


@pytest.mark.parametrize(
    ("op", "kind", "array"),
    [
        ("Neg", TensorProto.FLOAT16, np.array([[1, 2]], np.float16)),
        ("Neg", TensorProto.DOUBLE, np.array([[1, 2]], np.float64)),
        ("Not", TensorProto.BOOL, np.array([[True, False]])),
        ("Neg", TensorProto.INT64, np.zeros((0, 2), np.int64)),
        ("Identity", TensorProto.UINT8, np.array([[1, 255]], np.uint8)),
    ],
)
def test_dtypes(op: str, kind: int, array: np.ndarray[Any, Any], save: Save) -> None:
    path = save([node(op, ["x"], ["y"])], [value_info("x", kind, ["N", 2])], [value_info("y", kind, ["N", 2])])
    session = load(path)
    for _ in range(2):
        found = once(session, x=array)["y"]
    want = {"Neg": lambda a: -a, "Not": lambda a: ~a, "Identity": lambda a: a}[op](array)
    assert found.dtype == array.dtype
    assert found.tolist() == want.tolist()


def test_infer_is_bind_run_and_fetch_in_one_and_may_be_called_by_many_threads(conv: Path) -> None:
    session = load(conv)
    expected = [once(session, x=images(2, seed))["y"] for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: infer(session, {"x": images(2, seed)})["y"], range(8)))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(DataError, match="failed on these inputs"):
        infer(session, {"x": images(2).reshape(1, 2, 8, 8)})


def test_what_infer_refuses_is_in_the_error_alone(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    rows = numpy_helper.from_array(np.ones((4, 2), np.float32), "rows")
    path = save(
        [node("Gather", ["rows", "ids"], ["y"])],
        [value_info("ids", TensorProto.INT64, ["N"])],
        [value_info("y", F32, ["N", 2])],
        [rows],
    )
    with pytest.raises(DataError, match="987654"):
        infer(load(path), {"ids": np.array([987654])})
    assert "987654" not in "".join(capfd.readouterr())  # a value of somebody's request


def test_scalars_and_no_inputs(save: Save) -> None:
    path = save([node("ReduceSum", ["x"], ["y"], keepdims=0)], [value_info("x", F32, [])], [value_info("y", F32, [])])
    found = once(load(path), x=np.float32(3) * np.ones((), np.float32))["y"]
    assert (found.shape, float(found)) == ((), 3.0)
    path = save([node("Constant", [], ["y"], value_floats=[1.0, 2.0])], [], [value_info("y", F32, [2])], name="c.onnx")
    assert once(load(path))["y"].tolist() == [1.0, 2.0]


def test_output_shapes_that_depend_on_data_or_were_declared_wrongly(save: Save) -> None:
    io = [value_info("x", F32, ["N", 4])]
    nonzero = load(save([node("NonZero", ["x"], ["y"])], io, [value_info("y", TensorProto.INT64, [2, "K"])]))
    for count in (4, 1, 3):
        x = (np.arange(4) < count).astype(np.float32)[None]
        assert once(nonzero, x=x)["y"].shape == (2, count)
    lie = [node("Concat", ["x", "x"], ["y"], axis=0)], io, [value_info("y", F32, ["N", 4])]
    session = load(save(*lie, name="lie.onnx"))
    for n in (1, 3, 3):
        assert once(session, x=np.ones((n, 4), np.float32))["y"].shape == (2 * n, 4)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "No data for input `x`"),
        ({"x": images(1), "z": images(1)}, "no input `z`"),
        ({"x": images(1).astype(np.float64)}, "takes float32, the data are float64"),
        ({"x": images(1).astype(np.float16)}, "takes float32, the data are float16"),
        ({"x": np.array([["a"]], dtype=object)}, "takes float32, the data are object"),
        ({"x": images(1)[0]}, r"takes shape \[N, 1, 8, 8\], the data have \[1, 8, 8\]"),
        ({"x": images(1)[:, :, :4]}, r"the data have \[1, 1, 4, 8\]"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, Any], words: str, conv: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load(conv).bind(feeds)
    assert caught.value.fix


def test_inference_that_fails_is_a_data_error_without_source_paths(save: Save) -> None:
    weights = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    io = [value_info("x", F32, ["N", "K"])], [value_info("y", F32, ["N", 3])]
    session = load(save([node("MatMul", ["x", "w"], ["y"])], *io, [weights]))
    with pytest.raises(DataError, match="MatMul dimension mismatch") as caught:
        once(session, x=np.ones((1, 5), np.float32))
    assert ".h:" not in caught.value.what


def test_memory_that_an_inference_cannot_have_is_named(save: Save) -> None:
    io = [value_info("x", TensorProto.INT64, [2])], [value_info("y", F32, ["A", "B"])]
    session = load(save([node("ConstantOfShape", ["x"], ["y"])], *io))
    with pytest.raises(OutOfMemoryError):
        once(session, x=np.array([1 << 24, 1 << 24], np.int64))


def _bf16(shape: list[int]) -> TensorProto:
    return helper.make_tensor("w", TensorProto.BFLOAT16, shape, np.ones(shape, ml_dtypes.bfloat16).ravel())


X, Y = value_info("x", F32, ["N", 4]), value_info("y", F32, ["N", 4])
IN_BF16 = [node("Cast", ["x"], ["a"], to=TensorProto.BFLOAT16), node("Cast", ["b"], ["y"], to=F32)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            {"nodes": [IN_BF16[0], node("MatMul", ["a", "w"], ["b"]), IN_BF16[1]], "weights": [_bf16([4, 4])]},
            "bfloat16",
        ),
        ({"nodes": [IN_BF16[0], node("Relu", ["a"], ["b"]), IN_BF16[1]], "opset": 13}, "bfloat16"),
        ({"nodes": [node("Foo", ["x"], ["y"], domain="my.ops")]}, "operator `my.ops:Foo`"),
        ({"nodes": [node("Foo", ["x"], ["y"])]}, "operator `Foo`"),
        ({"nodes": [node("Relu", ["x"], ["y"])], "opset": 99}, "cannot build `model.onnx`: ONNX Runtime only"),
        ({"nodes": [node("Relu", ["x"], ["y"])], "ir": 99}, "cannot build `model.onnx`: Unsupported model IR"),
        ({"nodes": [node("Relu", ["z"], ["y"])]}, "cannot build `model.onnx`"),
        (
            {
                "nodes": [node("SequenceConstruct", ["x", "x"], ["y"])],
                "outputs": [helper.make_tensor_sequence_value_info("y", F32, None)],
            },
            r"output `y` has type `seq\(tensor\(float\)\)`",
        ),
        (
            {"nodes": [node("Cast", ["x"], ["y"], to=F32)], "inputs": [value_info("x", TensorProto.STRING, ["N", 4])]},
            r"input `x` has type `tensor\(string\)`",
        ),
        (
            {
                "nodes": [node("Cast", ["x"], ["y"], to=F32)],
                "inputs": [value_info("x", TensorProto.BFLOAT16, ["N", 4])],
            },
            r"input `x` has type `tensor\(bfloat16\)`",
        ),
    ],
)
def test_models_that_it_cannot_run(make: dict[str, Any], words: str, save: Save, tmp_path: Path) -> None:
    path = save(**{"inputs": [X], "outputs": [Y], **make})
    with pytest.raises(BuildError, match=words) as caught:
        build(path, tmp_path / "out")
    told = caught.value.what + caught.value.why
    assert caught.value.fix
    assert str(tmp_path) not in told
    assert "onnxruntime_src" not in told


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 300, b"version https://git-lfs", b"\x08\x09\x3a\xff\xff"])
@pytest.mark.parametrize("prepared", [True, False])
def test_files_that_are_no_engine(content: bytes | None, prepared: bool, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=r"cannot load `bad\.onnx`") as caught:
        load(path, prepared=prepared)
    assert str(tmp_path) not in caught.value.what + caught.value.why


def test_an_output_folder_that_is_not_there(conv: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"engine of `conv\.onnx` cannot be written"):
        OnnxRuntimeBackend().build(conv, tmp_path / "missing", ONE)


@pytest.mark.root
@pytest.mark.parametrize("external", [False, True])
def test_an_output_folder_that_is_full(external: bool, save: Save, small_disk: Path) -> None:
    weights = numpy_helper.from_array(np.full((1024, 1024), 0.5, np.float32), "w")
    io = [value_info("x", F32, ["N", 1024])], [value_info("y", F32, ["N", 1024])]
    path = save([node("MatMul", ["x", "w"], ["y"])], *io, [weights], external=external)
    with pytest.raises(StorageError, match=r"about 4\.2 MB are needed"):
        OnnxRuntimeBackend().build(path, small_disk, ONE)


def test_closed_sessions_say_so(conv: Path) -> None:
    session = load(conv)
    session.close()
    for use in (session.run, session.fetch, lambda: session.bind({"x": images(1)})):
        with pytest.raises(BuildError, match="after it was closed"):
            use()


def test_a_closed_session_is_gone_without_the_garbage_collector(conv: Path) -> None:
    gc.disable()  # as in a measuring worker
    try:
        session = load(conv)
        once(session, x=images(1))
        inner = weakref.ref(session._session)  # type: ignore[attr-defined]
        session.close()
        assert inner() is None
    finally:
        gc.enable()


def test_precisions_and_backends_that_do_not_exist() -> None:
    chosen = engine.backend("onnxruntime")
    for precision in ("fp32", "fp16", "int8"):
        chosen.check_precision(precision)
    with pytest.raises(BackendUnavailableError, match="bf16") as caught:
        chosen.check_precision("bf16")
    assert "fp16" in caught.value.fix
    with pytest.raises(BackendUnavailableError, match="no backend `tpu`"):
        engine.backend("tpu")


def test_a_worker_that_imports_the_backend_imports_little_else() -> None:
    code = (
        "import sys; from trt_action import engine; from trt_action.engine.backend import Loadable;"
        "engine.backend('onnxruntime'); print(*[m for m in ('onnx', 'pydantic', 'psutil', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_an_operator_without_a_kernel_of_its_type_on_cuda(save: Save) -> None:
    """ONNX Runtime's words as it says them on a GPU."""
    said = RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : Provider type for GlobalAveragePool node with name 'pool' is not set."
    )
    path = save(inputs=[X], outputs=[Y], nodes=[IN_BF16[0], node("Relu", ["a"], ["b"]), IN_BF16[1]], opset=13)
    error = _refusal(onnxruntime, said, path, "build", (path,), RuntimeOptions(device="cuda:0"))
    assert isinstance(error, BuildError)
    assert "no CUDA implementation of operator `GlobalAveragePool` in node `pool` in bfloat16" in error.what
    assert "exclude-nodes" in error.fix
