"""Train the two digit classifiers of the demo and write everything that the demo reads.

    pip install onnx scikit-learn && python examples/digits/train.py

Data: scikit-learn's 1,797 handwritten digits of 8 × 8 pixels (UCI ML "Optical Recognition of Handwritten Digits").
The network is trained with plain numpy (Adam, random shifts of one pixel), which takes two to five minutes on one core;
the same seed gives the same files on the same machine.

Writes, beside this file: `base.onnx`, `model.onnx` (the changed model of a pull request), `calibration.npz`
(training images only) and `validation.npz` (held-out images with labels).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the order of summation, and so the weights, stays the same
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
SEED = 7
VALIDATION, CALIBRATION = 600, 128
EPOCHS, BATCH, LEARNING_RATE = 24, 64, 1.5e-3

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Layer(Protocol):
    """One step of the network. Images are [N, H, W, C] here and [N, C, H, W] in ONNX."""

    weights: list[Floats]
    gradients: list[Floats]

    def forward(self, x: Floats) -> Floats: ...
    def backward(self, dy: Floats) -> Floats: ...
    def nodes(self, x: str, y: str, name: str) -> tuple[list[onnx.NodeProto], dict[str, Floats]]: ...


class ConvRelu:
    """3 × 3 convolution with padding 1, then ReLU."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        scale = np.sqrt(2 / (9 * inputs))  # He et al. 2015: variance kept through ReLU
        self.weights = [
            (rng.standard_normal((9 * inputs, outputs)) * scale).astype(np.float32),
            np.zeros(outputs, np.float32),
        ]
        self.gradients: list[Floats] = []

    def forward(self, x: Floats) -> Floats:
        n, height, width, channels = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        self._columns = np.concatenate(shifted, axis=3).reshape(-1, 9 * channels)
        self._shape = x.shape
        y: Floats = self._columns @ self.weights[0] + self.weights[1]
        self._y = np.maximum(y, 0)
        return self._y.reshape(n, height, width, -1)

    def backward(self, dy: Floats) -> Floats:
        n, height, width, channels = self._shape
        dy = dy.reshape(self._y.shape) * (self._y > 0)
        self.gradients = [self._columns.T @ dy, dy.sum(axis=0)]
        columns = (dy @ self.weights[0].T).reshape(n, height, width, 9, channels)
        dx = np.zeros((n, height + 2, width + 2, channels), np.float32)
        for k in range(9):
            i, j = divmod(k, 3)
            dx[:, i : i + height, j : j + width] += columns[:, :, :, k]
        return dx[:, 1:-1, 1:-1]

    def nodes(self, x: str, y: str, name: str) -> tuple[list[onnx.NodeProto], dict[str, Floats]]:
        weight = self.weights[0].reshape(3, 3, -1, self.weights[1].size).transpose(3, 2, 0, 1)
        conv = helper.make_node(
            "Conv", [x, f"{name}.weight", f"{name}.bias"], [f"{name}.out"], name, kernel_shape=[3, 3], pads=[1] * 4
        )
        relu = helper.make_node("Relu", [f"{name}.out"], [y], f"{name}.relu")
        return [conv, relu], {f"{name}.weight": np.ascontiguousarray(weight), f"{name}.bias": self.weights[1]}


class MaxPool:
    """2 × 2 maximum with stride 2."""

    def __init__(self) -> None:
        self.weights: list[Floats] = []
        self.gradients: list[Floats] = []

    def forward(self, x: Floats) -> Floats:
        n, height, width, channels = x.shape
        blocks = x.reshape(n, height // 2, 2, width // 2, 2, channels)
        y: Floats = blocks.max(axis=(2, 4), keepdims=True)
        self._winners = (blocks == y) / (blocks == y).sum(axis=(2, 4), keepdims=True, dtype=np.float32)
        self._shape = x.shape
        return y[:, :, 0, :, 0]

    def backward(self, dy: Floats) -> Floats:
        dx: Floats = (self._winners * dy[:, :, None, :, None]).reshape(self._shape)
        return dx.astype(np.float32)

    def nodes(self, x: str, y: str, name: str) -> tuple[list[onnx.NodeProto], dict[str, Floats]]:
        return [helper.make_node("MaxPool", [x], [y], name, kernel_shape=[2, 2], strides=[2, 2])], {}


class Classifier:
    """Mean over the pixels, then a linear layer to the ten logits."""

    def __init__(self, inputs: int, rng: np.random.Generator) -> None:
        weight = (rng.standard_normal((inputs, 10)) / np.sqrt(inputs)).astype(np.float32)
        self.weights = [weight, np.zeros(10, np.float32)]
        self.gradients: list[Floats] = []

    def forward(self, x: Floats) -> Floats:
        self._shape = x.shape
        self._mean: Floats = x.mean(axis=(1, 2))
        y: Floats = self._mean @ self.weights[0] + self.weights[1]
        return y

    def backward(self, dy: Floats) -> Floats:
        _, height, width, _ = self._shape
        self.gradients = [self._mean.T @ dy, dy.sum(axis=0)]
        dmean = (dy @ self.weights[0].T)[:, None, None] / np.float32(height * width)
        return np.broadcast_to(dmean, self._shape)

    def nodes(self, x: str, y: str, name: str) -> tuple[list[onnx.NodeProto], dict[str, Floats]]:
        nodes = [
            helper.make_node("GlobalAveragePool", [x], [f"{name}.mean"], f"{name}.pool"),
            helper.make_node("Flatten", [f"{name}.mean"], [f"{name}.flat"], f"{name}.flatten"),
            helper.make_node("Gemm", [f"{name}.flat", f"{name}.weight", f"{name}.bias"], [y], name),
        ]
        return nodes, {f"{name}.weight": self.weights[0], f"{name}.bias": self.weights[1]}


def base_network(rng: np.random.Generator) -> list[Layer]:
    """What main ships: four convolutions at full resolution, one behind the pooling."""
    return [
        ConvRelu(1, 64, rng),
        ConvRelu(64, 112, rng),
        ConvRelu(112, 112, rng),
        ConvRelu(112, 112, rng),
        MaxPool(),
        ConvRelu(112, 128, rng),
        Classifier(128, rng),
    ]


def changed_network(rng: np.random.Generator) -> list[Layer]:
    """What the pull request proposes: one convolution moves behind the pooling, where it is cheaper."""
    return [
        ConvRelu(1, 64, rng),
        ConvRelu(64, 112, rng),
        ConvRelu(112, 112, rng),
        MaxPool(),
        ConvRelu(112, 128, rng),
        ConvRelu(128, 128, rng),
        Classifier(128, rng),
    ]


def predict(layers: list[Layer], images: Floats) -> Floats:
    """Logits [N, 10] of images [N, 8, 8, 1]."""
    x = images
    for layer in layers:
        x = layer.forward(x)
    return x


def train(layers: list[Layer], images: Floats, labels: Labels, rng: np.random.Generator) -> None:
    """Adam (Kingma & Ba 2015) on the cross-entropy, learning rate falling as a cosine to zero."""
    parameters = [weight for layer in layers for weight in layer.weights]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    steps = EPOCHS * (len(images) // BATCH)
    step = 0
    for epoch in range(EPOCHS):
        losses = []
        order = rng.permutation(len(images))
        for at in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            logits = predict(layers, shifted(images[chosen], rng))
            loss, gradient = cross_entropy(logits, labels[chosen])
            losses.append(loss)
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            step += 1
            rate = LEARNING_RATE * (1 + np.cos(np.pi * step / steps)) / 2
            gradients = [g for layer in layers for g in layer.gradients]
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m += np.float32(0.1) * (g - m)
                v += np.float32(0.001) * (g * g - v)
                corrected = np.sqrt(v / np.float32(1 - 0.999**step)) + np.float32(1e-8)
                p -= np.float32(rate / (1 - 0.9**step)) * m / corrected
        print(f"  epoch {epoch + 1:2d}  loss {np.mean(losses):.4f}", flush=True)


def shifted(images: Floats, rng: np.random.Generator) -> Floats:
    """Each image moved by up to one pixel in both directions; the border is empty paper."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    offsets = rng.integers(0, 3, (len(images), 2))
    return np.stack([padded[k, i : i + 8, j : j + 8] for k, (i, j) in enumerate(offsets)])


def cross_entropy(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Mean loss, and its gradient by the logits."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(shares[rows, labels] + 1e-12).mean())
    shares[rows, labels] -= 1
    return loss, shares / np.float32(len(labels))


def save(layers: list[Layer], path: Path) -> None:
    """As ONNX: `image` float32 [N, 1, 8, 8] → `logits` float32 [N, 10]."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Floats] = {}
    kinds: dict[str, int] = {}
    x = "image"
    for index, layer in enumerate(layers):
        kind = {"ConvRelu": "conv", "MaxPool": "pool"}.get(type(layer).__name__, "classifier")
        kinds[kind] = kinds.get(kind, 0) + 1
        name = kind if kind == "classifier" else f"{kind}{kinds[kind]}"
        y = "logits" if index == len(layers) - 1 else f"{name}.y"
        more_nodes, more_weights = layer.nodes(x, y, name)
        nodes += more_nodes
        weights |= more_weights
        x = y
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="examples/digits/train.py"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def save_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> int:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(images))
    held_out, seen = order[:VALIDATION], order[VALIDATION:]

    for name, build in (("base.onnx", base_network), ("model.onnx", changed_network)):
        rng = np.random.default_rng(SEED)
        layers = build(rng)
        print(name)
        train(layers, images[seen], labels[seen], rng)
        save(layers, HERE / name)
        right = predict(layers, images[held_out]).argmax(axis=1) == labels[held_out]
        print(
            f"{name}: {(HERE / name).stat().st_size:,} bytes, top-1 {right.mean():.2%} of {VALIDATION} held-out images"
        )

    as_nchw = images.transpose(0, 3, 1, 2)
    save_arrays(HERE / "calibration.npz", image=as_nchw[seen[:CALIBRATION]])
    save_arrays(HERE / "validation.npz", image=as_nchw[held_out], labels=labels[held_out])
    return 0


if __name__ == "__main__":
    sys.exit(main())
