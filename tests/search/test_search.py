"""The whole search on real networks: what is found, what it is decided on, and what is said where nothing holds."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from trt_action import data, precision, search, settings
from trt_action import model as models
from trt_action.accuracy import Trials
from trt_action.errors import BackendUnavailableError, PrecisionError, SettingsError
from trt_action.evidence import Accuracy, Estimate, OutputParity, Parity, Precision, TaskMetric
from trt_action.precision import Recipe
from trt_action.search.hunt import judged
from trt_action.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def fragile(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    path = tmp_path_factory.mktemp("fragile") / "fragile.onnx"
    onnx.save(runpy.run_path(str(digits / "fragile.py"))["make"](onnx.load(digits / "model.onnx")), path)
    return models.load(path, label="fragile.onnx", batch_size=8)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    """One block of BERT, with pooler and classes."""
    path = tmp_path_factory.mktemp("bert") / "block.onnx"
    onnx.save(runpy.run_path(str(EXAMPLES / "bert/make.py"))["build"](layers=1), path)
    return models.load(path, label="block.onnx")


def given(digits: Path, model: models.Model, name: str) -> data.Dataset:
    return data.load(
        f"{name}.npz",
        model.info,
        origin=name,  # type: ignore[arg-type]
        need_labels=False,
        limit=128 if name == "calibration" else None,
        timeout=60,
        base_dir=digits,
    )


def asked(tmp_path: Path, **written: str) -> Settings:
    chosen = {"model": "m.onnx", "base": "none", **{name.replace("_", "-"): value for name, value in written.items()}}
    return settings.load(chosen, {}, tmp_path)[0]


def light(s: Settings) -> Callable[[Precision], Recipe]:
    return lambda name: Recipe(name, op_types=s.op_types, exclude_nodes=s.exclude_nodes)


def find(
    model: models.Model,
    s: Settings,
    tmp_path: Path,
    calibration: data.Dataset | None,
    validation: data.Dataset | None,
    recipe_of: Callable[[Precision], Recipe] | None = None,
) -> search.Found:
    told: list[str] = []
    found = search.search(
        model,
        s,
        recipe_of or light(s),
        device="cpu",
        calibration=calibration,
        validation=validation,
        synthetic=data.synthetic(model.info, 16, 0),
        base_dir=tmp_path,
        work_dir=tmp_path / "work",
        progress=lambda text, _: told.append(text),
    )
    assert not list((tmp_path / "work").iterdir())  # candidates are gone
    assert told
    return found


@pytest.mark.parametrize("written", [{"precision": "int8", "keep_accuracy": "true"}, {"precision": "auto"}])
def test_the_one_fragile_layer_is_kept(
    digits: Path, fragile: models.Model, tmp_path: Path, written: dict[str, str]
) -> None:
    s = asked(tmp_path, max_accuracy_drop="0.5%", **written)
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))
    record = found.record
    assert (found.precision, found.exclude_nodes) == ("int8", ("conv4",))
    assert (record.found, record.kept, record.kept_layers, record.layers) == (True, ["conv4"], 1, 6)
    assert (record.data, record.samples, record.notes) == ("validation", 600, [])
    plain, kept = record.trials
    assert (plain.kept, plain.holds, kept.kept, kept.holds) == (0, False, 1, True)
    assert plain.metric is not None
    assert plain.metric < 0.2
    assert kept.metric is not None
    assert kept.metric > 0.98
    assert kept.share is not None
    assert 0.8 < kept.share < 0.9
    assert record.sensitivity[0].name == "conv4"
    assert "loses at most 0.5 points against reference" in record.rule


def test_the_found_recipe_is_the_one_that_a_person_would_commit(
    digits: Path, fragile: models.Model, tmp_path: Path
) -> None:
    """The same bytes as with the list in the settings, without any search."""
    s = asked(tmp_path, precision="int8", keep_accuracy="true", max_accuracy_drop="0.5%", exclude_nodes="classifier")
    calibration = given(digits, fragile, "calibration")
    found = find(fragile, s, tmp_path, calibration, given(digits, fragile, "validation"))
    assert found.exclude_nodes == ("classifier", "conv4")
    assert found.record.kept == ["conv4"]
    committed = asked(tmp_path, precision="int8", exclude_nodes=",".join(found.record.exclude_nodes))
    assert light(committed)("int8").digest == Recipe("int8", exclude_nodes=found.exclude_nodes).digest


def test_what_holds_is_left_alone(digits: Path, tmp_path: Path) -> None:
    model = models.load(digits / "model.onnx", label="model.onnx", batch_size=8)
    s = asked(tmp_path, precision="int8", keep_accuracy="true", max_accuracy_drop="0.5%")
    found = find(model, s, tmp_path, given(digits, model, "calibration"), given(digits, model, "validation"))
    assert (found.precision, found.exclude_nodes, len(found.record.trials)) == ("int8", (), 1)
    assert found.record.layers == 0  # nothing was ranked


def test_a_transformer_block_by_the_parity_bound(block: models.Model, tmp_path: Path) -> None:
    """No labels, so no accuracy gate: the relative error of the outputs decides, on inputs that did not calibrate."""
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(0, 30_522, (n, 128)) for name, n in (("calibration", 8), ("validation", 12))}
    sets = {
        name: data.Dataset({"ids": array}, None, "0" * 64, name, len(array))  # type: ignore[arg-type]
        for name, array in ids.items()
    }
    s = asked(tmp_path, precision="int8", keep_accuracy="true", search_max_error="1.5%", min_precision_share="60%")
    found = find(block, s, tmp_path, sets["calibration"], sets["validation"])
    record = found.record
    assert record.found
    assert record.rule == "relative L2 error of every output ≤ 1.5 %"
    assert 1 <= record.kept_layers <= 3
    assert record.layers == 10
    assert record.trials[0].error is not None
    assert record.trials[0].error > 0.015
    last = next(trial for trial in reversed(record.trials) if trial.holds)
    assert last.error is not None
    assert last.error <= 0.015
    assert record.kept_layers == last.kept
    assert "pool" in record.kept


def test_the_time_limit_ends_it_with_the_recipe_as_it_was(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    s = asked(
        tmp_path, precision="int8", keep_accuracy="true", max_accuracy_drop="0.5%", search_timeout="1ms", seed="3"
    )
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))
    assert (found.precision, found.exclude_nodes, found.record.found) == ("int8", (), False)
    assert any("`search-timeout: 1ms` ended the search" in note for note in found.record.notes)


def test_what_there_was_no_time_for_is_not_said_to_fail(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    s = asked(tmp_path, precision="auto", max_accuracy_drop="0.5%", search_timeout="1ms")
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))
    assert (found.precision, found.record.found, found.record.trials) == ("fp32", False, [])
    assert found.record.notes == [
        "`search-timeout: 1ms` ended the search.",
        "There was no time to try int8.",
        "There was no time to try fp32.",
    ]


def test_a_ranking_that_fails_does_not_end_the_run(
    digits: Path, fragile: models.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> tuple[precision.SensitiveLayer, ...]:
        raise PrecisionError("Looking for layers failed.", why="An operator.")

    monkeypatch.setattr(precision, "rank", broken)
    s = asked(tmp_path, precision="int8", keep_accuracy="true", max_accuracy_drop="0.5%")
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))
    assert (found.precision, found.exclude_nodes, found.record.found) == ("int8", (), False)
    assert found.record.notes[0].endswith("could not be ranked: Looking for layers failed. An operator.")


def test_a_layer_that_no_setting_can_name_is_told(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    proto = onnx.load(fragile.path)
    next(node for node in proto.graph.node if node.name == "conv4").name = "conv\n4"
    onnx.save(proto, tmp_path / "nameless.onnx")
    model = models.load(tmp_path / "nameless.onnx", label="nameless.onnx", batch_size=8)
    s = asked(tmp_path, precision="auto", max_accuracy_drop="0.5%")
    found = find(model, s, tmp_path, given(digits, model, "calibration"), given(digits, model, "validation"))
    assert (found.precision, found.exclude_nodes) == ("fp32", ())
    assert any("1 of 6 layers cannot be kept, `conv 4` for one" in note for note in found.record.notes)


@pytest.mark.parametrize(
    "name", ["a", " a,b ", "é 😀", "x" * 1_000, "x" * 1_001, "a\nb", "a\tb", "a\u202eb", "\x7f", ""]
)
def test_a_layer_is_kept_if_the_settings_take_its_name(name: str, tmp_path: Path) -> None:
    layer = precision.SensitiveLayer(name, (name,), 0.1, measured=True)
    config = tmp_path / ".trt-action.yml"
    config.write_text(yaml.safe_dump({"model": "m.onnx", "precision": "int8", "exclude-nodes": [name]}))
    if layer.can_be_named:
        assert settings.load({}, {}, tmp_path, config)[0].exclude_nodes == (name,)
    else:
        with pytest.raises(SettingsError, match="exclude-nodes"):
            settings.load({}, {}, tmp_path, config)


def test_a_rule_that_no_recipe_can_hold(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    """The FP32 reference itself is below the limit: float32 is what is left, and it says that it does not hold."""
    s = asked(tmp_path, precision="auto", min_accuracy="99.9%", search_timeout="2m")
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))
    assert (found.precision, found.exclude_nodes, found.record.found) == ("fp32", (), False)
    assert found.record.trials[-1].precision == "fp32"
    assert any("the FP32 reference itself" in note for note in found.record.notes)


def test_a_share_that_is_too_small_is_not_an_answer(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    """Keeping conv4 leaves 87 % of the work in int8: with 90 % asked for, auto goes on to float32."""
    s = asked(tmp_path, precision="auto", max_accuracy_drop="0.5%", min_precision_share="90%")
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))
    assert (found.precision, found.record.found) == ("fp32", True)
    assert any("below `min-precision-share: 90 %`" in note for note in found.record.notes)


def test_auto_passes_over_what_cannot_be_made(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    s = asked(tmp_path, precision="auto", max_accuracy_drop="0.5%")

    def recipe_of(name: Precision) -> Recipe:
        if name == "int8":
            raise BackendUnavailableError("No int8 here.")
        return Recipe(name)

    validation = given(digits, fragile, "validation")
    found = find(fragile, s, tmp_path, given(digits, fragile, "calibration"), validation, recipe_of)
    assert found.precision == "fp32"
    assert "int8 was passed over: No int8 here." in found.record.notes
    without = find(fragile, s, tmp_path, None, validation)
    assert without.precision == "fp32"
    assert "int8 was not tried: there is no `calibration-data`." in without.record.notes


def test_auto_needs_no_calibration_data_for_a_model_with_qdq_nodes(digits: Path, tmp_path: Path) -> None:
    plain = models.load(digits / "model.onnx", label="model.onnx", batch_size=8)
    made = precision.prepare(plain, Recipe("int8"), given(digits, plain, "calibration"), tmp_path, timeout=60)
    model = models.load(made.path, label="qat.onnx", batch_size=8)
    s = asked(tmp_path, precision="auto", max_accuracy_drop="0.5%")
    found = find(model, s, tmp_path, None, given(digits, model, "validation"))
    assert (found.precision, found.record.found, found.record.notes) == ("int8", True, [])


def test_a_wrong_name_is_an_error_also_for_auto(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    s = asked(tmp_path, precision="auto", exclude_nodes="conv44")
    with pytest.raises(SettingsError, match="`conv44`"):
        find(fragile, s, tmp_path, given(digits, fragile, "calibration"), given(digits, fragile, "validation"))


@pytest.mark.parametrize(
    ("calibration", "validation", "origin", "words"),
    [
        (True, False, "calibration", "decided on the calibration data"),
        (True, True, "validation", "4 calibration samples are in the validation data too"),
    ],
)
def test_data_that_flatter_are_named(
    digits: Path, tmp_path: Path, calibration: bool, validation: bool, origin: str, words: str
) -> None:
    model = models.load(digits / "model.onnx", label="model.onnx", batch_size=8)
    images = np.load(digits / "validation.npz")["image"]
    first = data.Dataset({"image": images[:40]}, None, "0" * 64, "calibration", 40)
    second = data.Dataset({"image": images[36:80]}, None, "1" * 64, "validation", 44)
    s = asked(tmp_path, precision="int8", keep_accuracy="true")
    found = find(model, s, tmp_path, first if calibration else None, second if validation else None)
    assert found.record.data == origin
    assert any(words in note for note in found.record.notes)


def parity(*errors: float | None, nan: int = 0, max_abs: float | None = None) -> Parity:
    rest: dict[str, Any] = {"max_abs": max_abs, "mean_abs": None, "cosine": None, "top1_agreement": None}
    rest |= {"top5_agreement": None, "nan": nan}
    heads = {f"o{i}": OutputParity(relative_l2=error, **rest) for i, error in enumerate(errors)}
    return Parity(samples=10, data="validation", head=heads)


def task(head: float, reference: float = 0.99) -> TaskMetric:
    def sure(value: float) -> Estimate:
        return Estimate(estimate=value, low=value, high=value, confidence=0.95)

    drop = reference - head
    return TaskMetric(
        metric="top1",
        samples=600,
        data_sha256="0" * 64,
        reference=sure(reference),
        head=sure(head),
        drop=Estimate(estimate=drop, low=drop - 0.02, high=drop + 0.02, confidence=0.95),
        drop_from="reference",
        method="x",
    )


@pytest.mark.parametrize(
    ("written", "found", "holds"),
    [
        ({}, Accuracy(parity=parity(0.04, 0.05)), True),
        ({}, Accuracy(parity=parity(0.04, 0.06)), False),
        ({}, Accuracy(parity=parity(0.04, None)), False),
        ({}, Accuracy(parity=parity(None, max_abs=0.0)), True),  # zeros that are zeros
        ({}, Accuracy(parity=parity(None, max_abs=1e-9)), False),
        ({}, Accuracy(parity=parity(0.0, nan=1)), False),
        ({"search_max_error": "10%"}, Accuracy(parity=parity(0.06)), True),
        ({"min_accuracy": "97%"}, Accuracy(parity=parity(0.5), task=task(0.97)), True),
        ({"min_accuracy": "97%"}, Accuracy(parity=parity(0.5, nan=2), task=task(0.97)), False),
        ({"min_accuracy": "97%"}, Accuracy(parity=parity(0.5), task=task(0.96)), False),
        ({"min_accuracy": "97%"}, Accuracy(parity=parity(0.04)), True),  # no labels: the bound decides
        ({"max_accuracy_drop": "1%"}, Accuracy(parity=parity(0.5), task=task(0.98)), True),
        # the run would call it inconclusive: the observed loss is above the limit, and that is not holding it
        ({"max_accuracy_drop": "0.5%"}, Accuracy(parity=parity(0.5), task=task(0.98)), False),
        ({"max_accuracy_drop": "5%", "min_accuracy": "99%"}, Accuracy(parity=parity(0.5), task=task(0.98)), False),
    ],
)
def test_what_holds(tmp_path: Path, written: dict[str, str], found: Accuracy, holds: bool) -> None:
    assert judged(asked(tmp_path, validation_data="v.npz", **written), found)[0] == holds


@pytest.mark.parametrize(
    ("precision_", "keep", "wanted"),
    [("auto", "false", True), ("int8", "true", True), ("int8", "false", False), ("fp32", "true", False)],
)
def test_when_there_is_something_to_find(tmp_path: Path, precision_: str, keep: str, wanted: bool) -> None:
    assert search.wanted(asked(tmp_path, precision=precision_, keep_accuracy=keep)) == wanted


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_candidates_end_with_what_always_works(backend: str, device: str) -> None:
    names = search.candidates(backend, device)
    assert names[-1] == "fp32"
    assert ("fp16" in names) == (backend != "onnxruntime" or device != "cpu")
    assert set(names) <= {*precision.CALIBRATED, "fp16", "fp32"}


def test_trials_keep_nothing_behind(digits: Path, fragile: models.Model, tmp_path: Path) -> None:
    from trt_action import engine

    with Trials(
        engine.reference(fragile),
        fragile.info,
        given(digits, fragile, "validation"),
        metric="top1",
        metric_timeout=60,
        base_dir=tmp_path,
        work_dir=tmp_path,
        seed=0,
    ) as trials:
        same = trials.of(engine.reference(fragile), timeout=60, progress=None)
        again = trials.of(engine.reference(fragile), timeout=60, progress=None)
    assert same == again
    assert same.task is not None
    assert same.task.drop is not None
    assert same.task.drop.estimate == 0
    assert same.parity is not None
    assert same.parity.head["logits"].relative_l2 == 0
    assert not list(tmp_path.iterdir())
