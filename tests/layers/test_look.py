"""The whole pass, for real: ONNX Runtime's engines under its own profiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.layers.conftest import MakeSide
from trt_action import arrays, data, engine, layers, precision
from trt_action import model as models
from trt_action.engine.backend import RuntimeOptions
from trt_action.errors import TrtActionError
from trt_action.evidence import Precision
from trt_action.layer_records import LayerChange, LayerDiff

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def look(**sides: layers.Side) -> tuple[dict[str, layers.LayerReport], LayerDiff | None]:
    return layers.look(sides, seconds=0.3, cpus=None, progress=lambda text, share: None)


def one(diff: LayerDiff | None, kind: str) -> list[LayerChange]:
    assert diff is not None
    return [change for change in diff.changes if kind in change.kinds]


def test_one_side(side: MakeSide) -> None:
    reports, diff = look(head=side("head"))
    assert diff is None
    report = reports["head"]
    assert (report.source, report.device, report.rounds) == ("onnxruntime-profiler", "cpu", 6)
    assert report.runs >= 9
    products = [layer for layer in report.layers if layer.role == "compute"]
    assert [layer.nodes for layer in products] == [["conv1", "relu2"], ["conv3", "relu4"], ["conv5", "relu6"]]
    assert all(layer.precision == "fp32" and layer.ms and layer.tactic == "CPU" for layer in products)
    assert sum(layer.share or 0 for layer in report.layers) == pytest.approx(1, abs=0.001)
    assert report.asked_share == 1
    assert report.by_precision["fp32"] > 0.5


def test_the_same_engine_twice_has_no_structural_difference(side: MakeSide) -> None:
    head = side("head")
    _, diff = look(head=head, base=head)
    assert diff is not None
    assert {kind for change in diff.changes for kind in change.kinds} <= {"slower", "faster"}
    assert not diff.left_out
    assert diff.matched >= 3


def test_an_output_between_two_nodes_breaks_their_fusion(side: MakeSide) -> None:
    _, diff = look(head=side("head", seen=True), base=side("base"))
    (lost,) = one(diff, "lost-fusion")
    assert lost.title == "conv1 + relu2"
    assert (len(lost.head), len(lost.base)) == (2, 1)
    assert "1 → 2 layers (Conv → Conv + Relu)" in lost.detail
    _, back = look(head=side("head2"), base=side("base2", seen=True))
    assert [change.title for change in one(back, "new-fusion")] == ["conv1 + relu2"]


def test_new_casts(side: MakeSide) -> None:
    _, diff = look(head=side("head", half=True), base=side("base"))
    casts = [change for change in one(diff, "new-conversion") if "Cast" in change.title]
    assert sorted(change.detail for change in casts) == ["Cast: fp16 → fp32", "Cast: fp32 → fp16"]
    assert all(change.base_ms is None and change.delta_ms for change in casts)
    assert not one(diff, "appeared")


def test_the_slower_layer_is_named(side: MakeSide) -> None:
    _, diff = look(head=side("head", convolutions=2, wide=2), base=side("base", convolutions=2))
    slower = one(diff, "slower")
    assert slower[0].title == "conv3 + relu4"
    assert slower[0].head_ms is not None
    assert slower[0].base_ms is not None
    assert slower[0].head_ms > 3 * slower[0].base_ms


def test_names_that_count_are_matched_by_place(side: MakeSide) -> None:
    """One node more in front, and `Conv_3` is another convolution."""
    head = side("head", convolutions=4, names=lambda op, i: f"{op}_{i}")
    base = side("base", convolutions=3, wide=1, names=lambda op, i: f"{op}_{i}")
    _, diff = look(head=head, base=base)
    assert diff is not None
    assert diff.matched >= 3
    renamed, plain = side("renamed", names=lambda op, i: f"/net/{op}/x{i}"), side("plain")
    _, diff = look(head=renamed, base=plain)
    assert not [kind for kind in ("appeared", "vanished", "lost-fusion") if one(diff, kind)]


def prepared(folder: Path, asked: Precision) -> layers.Side:
    folder.mkdir()
    chosen = models.load(DIGITS / "model.onnx", label="digits", name=None, shapes=None, batch_size=1)
    calibration = data.synthetic(chosen.info, 8, 0) if asked == "int8" else None
    recipe = precision.Recipe(
        precision=asked,
        calibration_method="minmax",
        calibration_samples=8,
        op_types=("Conv", "MatMul", "Gemm"),
        exclude_nodes=(),
    )
    with engine.Cache(None, 0) as cache:
        made = engine.obtain(
            chosen, recipe, calibration, backend="onnxruntime", options=RuntimeOptions(threads=1), cache=cache,
            work_dir=folder, timeout=300,
        )  # fmt: skip
    feeds = folder / "feeds.npz"
    arrays.save_npz(feeds, data.example_feeds(chosen.info, 0, None))
    return layers.Side(made.loadable, made.prepared, feeds, asked)


def test_precisions_of_a_real_model(tmp_path: Path) -> None:
    sides = {asked: prepared(tmp_path / asked, asked) for asked in ("fp32", "fp16", "int8")}
    reports, diff = look(head=sides["int8"], base=sides["fp32"])
    assert reports["head"].asked_share == 1
    convolutions = [x for x in reports["head"].layers if x.role == "compute"]
    assert {layer.precision for layer in convolutions} == {"int8"}
    assert "conv1" in convolutions[0].nodes
    assert diff is not None
    assert one(diff, "new-conversion")
    assert any(change.detail.startswith("fp32 → int8") for change in diff.changes)
    assert not one(diff, "higher-precision")

    reports, diff = look(head=sides["fp16"], base=sides["int8"])
    assert reports["head"].asked_share == 0  # a CPU computes float16 in float32, and here it shows
    fallen = one(diff, "higher-precision")
    assert {"conv2", "conv3"} <= {name for change in fallen for name in change.title.split(" + ")}
    assert all("int8 → fp32" in change.detail for change in fallen)


def test_a_failure_names_the_side(side: MakeSide) -> None:
    base = side("base")
    base.loadable.path.write_bytes(b"no engine")
    with pytest.raises(TrtActionError, match=r"^base: "):
        look(head=side("head"), base=base)


def test_inputs_that_do_not_fit(side: MakeSide, tmp_path: Path) -> None:
    arrays.save_npz(tmp_path / "other.npz", {})
    with pytest.raises(TrtActionError, match=r"^head: .*`x`"):
        look(head=replace(side("head"), feeds=tmp_path / "other.npz"))
