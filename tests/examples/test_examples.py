"""The committed example files are what their README says, and the makers run."""

from __future__ import annotations

import hashlib
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from trt_action import data, precision
from trt_action import model as models
from trt_action.evidence import Precision

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name", ["base.onnx", "model.onnx"])
def test_digits_models_classify_held_out_images(digits: Path, name: str) -> None:
    path = digits / name
    assert path.stat().st_size < 2_000_000
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("image", "tensor(float)", ["N", 1, 8, 8])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["N", 10])]
    with np.load(digits / "validation.npz") as data:
        logits = session.run(["logits"], {"image": data["image"]})[0]
        assert len(data["labels"]) >= 500
        assert (logits.argmax(axis=1) == data["labels"]).mean() >= 0.97


def test_digits_models_differ(digits: Path) -> None:
    digests = {hashlib.sha256((digits / name).read_bytes()).hexdigest() for name in ("base.onnx", "model.onnx")}
    assert len(digests) == 2


def test_digits_calibration_holds_no_validation_image(digits: Path) -> None:
    with np.load(digits / "calibration.npz") as calibration, np.load(digits / "validation.npz") as validation:
        assert calibration["image"].shape == (128, 1, 8, 8)
        assert calibration["image"].dtype == validation["image"].dtype == np.float32
        assert validation["labels"].dtype == np.int64
        seen = {image.tobytes() for image in calibration["image"]}
        assert not seen & {image.tobytes() for image in validation["image"]}


def test_digits_gradients_are_right() -> None:
    """Back-propagation against central differences: the network is really trained, not lucky."""
    train = runpy.run_path(str(EXAMPLES / "digits" / "train.py"))
    rng = np.random.default_rng(0)
    layers = [train["ConvRelu"](1, 3, rng), train["MaxPool"](), train["Classifier"](3, rng)]
    images = rng.random((4, 8, 8, 1), dtype=np.float32)
    labels = np.array([1, 3, 5, 7])
    _, gradient = train["cross_entropy"](train["predict"](layers, images), labels)
    for layer in reversed(layers):
        gradient = layer.backward(gradient)
    for layer in (layers[0], layers[2]):
        weight, slope, step = layer.weights[0], layer.gradients[0][0, 0], np.float32(1e-2)
        losses = []
        for sign in (1, -1):
            weight[0, 0] += sign * step
            losses.append(train["cross_entropy"](train["predict"](layers, images), labels)[0])
            weight[0, 0] -= sign * step
        assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=0.05, abs=1e-4)


def test_resnet50_has_its_known_size(tmp_path: Path) -> None:
    maker = EXAMPLES / "resnet50" / "make.py"
    path = tmp_path / "resnet50.onnx"
    subprocess.run([sys.executable, maker, path, "--external-data"], check=True, capture_output=True, timeout=120)
    model = onnx.load(path, load_external_data=False)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53
    # 25,557,032 of the usual network with its 53 batch normalisations (2 × 26,560) folded into biases (26,560).
    assert sum(int(np.prod(weight.dims)) for weight in model.graph.initializer) == 25_557_032 - 26_560
    assert path.stat().st_size < 100_000


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT-base with one of its twelve layers; 129 MB."""
    path = tmp_path_factory.mktemp("bert") / "bert.onnx"
    maker = EXAMPLES / "bert" / "make.py"
    subprocess.run([sys.executable, maker, path, "--layers", "1"], check=True, capture_output=True, timeout=120)
    return path


def test_bert_has_its_known_size(one_layer: Path) -> None:
    model = onnx.load(one_layer)
    weights = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT and w.dims]
    # 109,482,240 of the usual network with its pooler, less eleven layers, and two classes
    expected = 109_482_240 - 11 * 7_087_872 + 2 * 768 + 2
    assert sum(int(np.prod(weight.dims)) for weight in weights) == expected
    assert sum(node.op_type == "MatMul" for node in model.graph.node) == 8 + 2


def test_bert_runs_with_any_batch_and_reads_its_tokens(one_layer: Path) -> None:
    make = runpy.run_path(str(EXAMPLES / "bert" / "make.py"))
    ids = make["calibration"]()["ids"][:3]
    session = onnxruntime.InferenceSession(one_layer, providers=["CPUExecutionProvider"])
    together = session.run(["logits"], {"ids": ids})[0]
    assert together.shape == (3, 2)
    assert np.isfinite(together).all()
    assert len(np.unique(together[:, 0])) == 3
    alone = session.run(["logits"], {"ids": ids[1:2]})[0]
    assert np.allclose(alone, together[1:2], atol=1e-4)


@pytest.mark.parametrize(("wanted", "largest_error"), [("fp16", 0.005), ("int8", 0.2)])
def test_bert_in_lower_precision(one_layer: Path, tmp_path: Path, wanted: Precision, largest_error: float) -> None:
    """Every MatMul of a transformer gets the precision: those with weights and those of the attention."""
    head = models.load(one_layer, label="bert.onnx")
    calibration = data.load(
        "make.py:calibration",
        head.info,
        origin="calibration",
        need_labels=False,
        limit=4,
        timeout=60,
        base_dir=EXAMPLES / "bert",
    )
    made = precision.prepare(head, precision.Recipe(wanted), calibration, tmp_path, timeout=300)
    assert made.proof.nodes == {wanted: 10}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference, answer = (
        onnxruntime.InferenceSession(path, options).run(None, calibration.inputs)[0] for path in (one_layer, made.path)
    )
    assert np.linalg.norm(answer - reference) <= largest_error * np.linalg.norm(reference)
