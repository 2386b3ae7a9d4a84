"""ModelOpt for real, in an environment of its own: `make test-modelopt` installs it and names it in MODELOPT_PYTHON."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from trt_action import data, precision
from trt_action import model as models
from trt_action.errors import OutOfMemoryError, PrecisionError, SettingsError
from trt_action.evidence import Precision
from trt_action.precision import Recipe, modelopt
from trt_action.precision.modelopt import ModelOpt

PYTHON = os.environ.get("MODELOPT_PYTHON", "")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = [
    pytest.mark.modelopt,
    pytest.mark.skipif(not PYTHON, reason="MODELOPT_PYTHON names no interpreter with ModelOpt: `make test-modelopt`"),
]


@pytest.fixture(scope="module")
def tool() -> ModelOpt:
    found = modelopt.find(Path(PYTHON))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def head(digits: Path) -> models.Model:
    return models.load(digits / "model.onnx", label="model.onnx")


@pytest.fixture(scope="module")
def calibration(digits: Path, head: models.Model) -> data.Dataset:
    return data.load(
        "calibration.npz", head.info, origin="calibration", need_labels=False, limit=128, timeout=60, base_dir=digits
    )


def error(model: Path, made: Path, feeds: dict[str, npt.NDArray[Any]]) -> float:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference, answer = (
        np.asarray(onnxruntime.InferenceSession(path, options).run(None, feeds)[0]) for path in (model, made)
    )
    return float(np.linalg.norm(answer - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(
    ("name", "changes", "nodes", "largest_error"),
    [
        ("fp16", {}, {"fp16": 6}, 0.0006),
        # ModelOpt leaves products with a side of 1 and, in fp8, convolutions of few channels as they are
        ("int8", {}, {"fp32": 1, "int8": 5}, 0.012),
        ("int8", {"calibration_method": "entropy"}, {"fp32": 1, "int8": 5}, 0.015),
        ("int8", {"high_precision": "fp16"}, {"fp16": 1, "int8": 5}, 0.012),
        ("int8", {"exclude_nodes": ("conv2", "conv?")}, None, None),
        ("int8", {"exclude_nodes": ("conv2",)}, {"fp32": 2, "int8": 4}, 0.012),
        ("int8", {"op_types": ("Gemm",)}, None, None),
        ("fp8", {}, {"fp32": 2, "fp8": 4}, 0.02),
        ("int4", {}, {"fp32": 5, "int4": 1}, 0.05),
    ],
)
def test_digits(
    digits: Path,
    head: models.Model,
    calibration: data.Dataset,
    tool: ModelOpt,
    tmp_path: Path,
    name: Precision,
    changes: dict[str, Any],
    nodes: dict[str, int] | None,
    largest_error: float | None,
) -> None:
    told: list[str] = []
    recipe = Recipe(name, modelopt=tool, **changes)

    def make() -> precision.Prepared:
        return precision.prepare(
            head, recipe, calibration, tmp_path, timeout=200, progress=lambda text, _: told.append(text)
        )

    if nodes is None or largest_error is None:
        with pytest.raises(PrecisionError, match="not one of its compute nodes"):  # it quantizes nothing, silently
            make()
        return
    made = make()
    assert made.proof.nodes == nodes
    assert [path.name for path in tmp_path.iterdir()] == ["prepared.onnx"]
    assert "loading ModelOpt" in told
    if name in ("int8", "fp8"):
        assert "ModelOpt calibrates, 128 of 128 samples" in told
    with np.load(digits / "validation.npz") as validation:
        assert error(head.path, made.path, {"image": validation["image"]}) <= largest_error
    declared = onnx.load(made.path).graph
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*declared.input, *declared.output)] == [
        ("image", onnx.TensorProto.FLOAT),
        ("logits", onnx.TensorProto.FLOAT),
    ]


def test_bf16(head: models.Model, tool: ModelOpt, tmp_path: Path) -> None:
    made = precision.prepare(head, Recipe("bf16", modelopt=tool), None, tmp_path, timeout=200)
    assert made.proof.nodes == {"bf16": 6}


def test_the_same_bytes_again(
    head: models.Model, calibration: data.Dataset, tool: ModelOpt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for folder, seed in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        recipe = Recipe("int8", modelopt=tool, high_precision="fp16")
        made.append(precision.prepare(head, recipe, calibration, tmp_path / folder, timeout=200).path.read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.04), ("int4", 0.2)])
def test_a_transformer_block(tool: ModelOpt, tmp_path: Path, name: Precision, bound: float) -> None:
    path = tmp_path / "block.onnx"
    onnx.save(runpy.run_path(str(EXAMPLES / "bert/make.py"))["build"](layers=1), path)
    block = models.load(path, label="block.onnx")
    rng = np.random.default_rng(0)
    calibration = data.Dataset({"ids": rng.integers(0, 30_522, (8, 128))}, None, "0" * 64, "calibration", 8)
    (tmp_path / "made").mkdir()
    recipe = Recipe(name, modelopt=tool, calibration_samples=8)
    made = precision.prepare(block, recipe, calibration, tmp_path / "made", timeout=280)
    assert made.proof.nodes == {"fp32": 2, name: 8}
    assert error(block.path, made.path, {"ids": rng.integers(0, 30_522, (1, 128))}) <= bound


def test_a_model_with_its_own_qdq_needs_no_modelopt(
    head: models.Model, calibration: data.Dataset, tmp_path: Path, tool: ModelOpt
) -> None:
    made = precision.prepare(head, Recipe("int8"), calibration, tmp_path, timeout=120)
    (tmp_path / "again").mkdir()
    told: list[str] = []
    kept = precision.prepare(
        models.load(made.path, label="q.onnx"),
        Recipe("int8", modelopt=tool),
        None,
        tmp_path / "again",
        timeout=120,
        progress=lambda text, _: told.append(text),
    )
    assert kept.path.read_bytes() == made.path.read_bytes()
    assert not any("ModelOpt" in text for text in told)


def test_what_is_refused_before_modelopt_is_asked(
    head: models.Model, calibration: data.Dataset, tool: ModelOpt, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="`precision: int4` without `calibration-data`"):
        precision.prepare(head, Recipe("int4", modelopt=tool), None, tmp_path, timeout=60)
    with pytest.raises(SettingsError, match="`conf1`"):
        precision.prepare(head, Recipe("fp16", modelopt=tool, exclude_nodes=("conf1",)), None, tmp_path, timeout=60)
    recipe = Recipe("int8", modelopt=tool, op_types=("Konv",))
    with pytest.raises(SettingsError, match="`Konv`") as caught:  # it would pass over the word and quantize nothing
        precision.prepare(head, recipe, calibration, tmp_path, timeout=60)
    assert "`Conv`" in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_words_of_modelopt_become_an_error(tool: ModelOpt, tmp_path: Path) -> None:
    """An index outside of the table: the checker cannot see it, calibration runs into it. Nothing stays behind."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "ids"], ["g"]), helper.make_node("MatMul", ["g", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [32])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [32, 64])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "gather.onnx")
    model = models.load(tmp_path / "gather.onnx", label="gather.onnx")
    wrong = data.Dataset({"ids": np.full(32, 99)}, None, "0" * 64, "calibration", 32)
    (tmp_path / "made").mkdir()
    with pytest.raises(PrecisionError, match="ModelOpt failed") as caught:
        precision.prepare(model, Recipe("int8", modelopt=tool), wrong, tmp_path / "made", timeout=200)
    assert "99" in caught.value.why
    assert "toolchain: onnxruntime" in caught.value.fix
    assert not list((tmp_path / "made").iterdir())


def test_a_time_limit(head: models.Model, calibration: data.Dataset, tool: ModelOpt, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="`ModelOpt` gave no answer within"):
        precision.prepare(head, Recipe("int8", modelopt=tool), calibration, tmp_path, timeout=2)
    assert not list(tmp_path.iterdir())


HOSTILE = (
    "fc\n- b",
    "fc.*|[a-z]+",
    "fc $(touch pwned); `id`",
    "fc<img src=x onerror=alert(1)>|`|",
    "../../etc/passwd",
    "[fc\u202e\x1b[31m" + "n" * 3_000,
)
BEGINNING = ("fc0", "fc1", "fc2", "fc3", "fc4", "fc")


@pytest.mark.parametrize("names", [HOSTILE, BEGINNING])
def test_names_of_nodes_are_no_patterns(
    head: models.Model,
    calibration: data.Dataset,
    tool: ModelOpt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
) -> None:
    """No path, no shell either. ModelOpt leaves the last one out by itself, and takes its name for a pattern."""
    proto = onnx.load(head.path)
    compute = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    for node, name in zip(compute, names, strict=True):
        node.name = name
    onnx.save(proto, tmp_path / "named.onnx")
    named = models.load(tmp_path / "named.onnx", label="named.onnx")
    (tmp_path / "made").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = Recipe("int8", modelopt=tool, exclude_nodes=(names[1],))
    made = precision.prepare(named, recipe, calibration, tmp_path / "made", timeout=200)
    assert made.proof.nodes == {"fp32": 2, "int8": 4}
    assert set(names) <= {node.name for node in onnx.load(made.path).graph.node}
    assert sorted(made.proof.kept_high) == sorted(name[:1_000] for name in (names[1], names[-1]))
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["prepared.onnx"]
    assert not list((tmp_path / "here").iterdir())


def test_killed_for_memory(head: models.Model, calibration: data.Dataset, tool: ModelOpt, tmp_path: Path) -> None:
    def kill(text: str, share: float | None) -> None:
        if text.startswith("ModelOpt"):
            children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=True)
            for pid in map(int, children.stdout.split()):
                command = Path(f"/proc/{pid}/cmdline")
                if command.exists() and b"modelopt_child" in command.read_bytes():
                    os.kill(pid, signal.SIGKILL)

    with pytest.raises(OutOfMemoryError, match="`ModelOpt` was killed"):
        precision.prepare(head, Recipe("int8", modelopt=tool), calibration, tmp_path, timeout=200, progress=kill)
