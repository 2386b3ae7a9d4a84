"""The base keeps its own precision recipe: what a pull request changes must not change the base with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_action import settings
from trt_action.errors import SettingsError
from trt_action.settings import Settings

HEAD = "model: m/a.onnx\nprecision: int8\ncalibration-data: c.npz\nexclude-nodes: [new]\nseed: 5\n"


def head(folder: Path, config: str = HEAD, **cli: str) -> Settings:
    (folder / ".trt-action.yml").write_text(config)
    return settings.load({key.replace("_", "-"): value for key, value in cli.items()}, {}, folder)[0]


def base_config(folder: Path, content: str) -> Path:
    path = folder / "old" / ".trt-action.yml"
    path.parent.mkdir()
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "model: m/a.onnx\nprecision: fp16\n",
        "precision: fp16\n",
        "precision: bf16\nmodels:\n  - model: m/x.onnx\n  - {model: m/a.onnx, precision: fp16}\n",
        "precision: bf16\nmodels:\n  - model: m/x.onnx\n  - {model: m/renamed.onnx, name: a, precision: fp16}\n",
    ],
)
def test_the_base_follows_its_own_config(tmp_path: Path, content: str) -> None:
    base = settings.for_base(head(tmp_path), base_config(tmp_path, content))
    assert (base.precision, base.exclude_nodes, base.seed) == ("fp16", (), 5)


def test_without_a_config_the_base_is_like_head(tmp_path: Path) -> None:
    ours = head(tmp_path)
    assert settings.for_base(ours, None) is ours


def test_what_was_given_outside_the_file_holds_for_both_sides(tmp_path: Path) -> None:
    base = settings.for_base(head(tmp_path, precision="bf16"), base_config(tmp_path, "precision: fp32\n"))
    assert base.precision == "bf16"


def test_shapes_of_inputs_that_head_does_not_name_come_from_the_bases_config(tmp_path: Path) -> None:
    ours = head(tmp_path, HEAD + "shapes: {x: [4, 3]}\n")
    base = settings.for_base(ours, base_config(tmp_path, "shapes: {x: [1, 3], size: {values: [8]}}\n"))
    assert base.shapes == {"x": [4, 3], "size": {"values": [8]}}


def test_base_precision_comes_first(tmp_path: Path) -> None:
    base = settings.for_base(head(tmp_path, base_precision="fp32"), base_config(tmp_path, "precision: fp16\n"))
    assert (base.precision, base.exclude_nodes) == ("fp32", ("new",))


def test_how_a_recipe_is_found_is_part_of_it(tmp_path: Path) -> None:
    """The host's interpreter with ModelOpt is not: both sides are prepared here."""
    ours = head(tmp_path, HEAD + "keep-accuracy: true\ntoolchain: modelopt\nmodelopt-python: p\nhigh-precision: fp16\n")
    base = settings.for_base(ours, base_config(tmp_path, "precision: auto\n"))
    assert (base.precision, base.keep_accuracy, base.toolchain, base.high_precision) == ("auto", False, "auto", "auto")
    assert base.modelopt_python == ours.modelopt_python == tmp_path / "p"


def test_an_int8_base_needs_no_calibration_data_here(tmp_path: Path) -> None:
    """It may have its own Q/DQ nodes; `precision.prepare` refuses it when it has none."""
    ours = head(tmp_path, "model: m/a.onnx\nprecision: fp16\n")
    assert settings.for_base(ours, base_config(tmp_path, "precision: int8\n")).precision == "int8"


def test_a_broken_config_of_the_base_is_named_as_the_bases(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="config of the base"):
        settings.for_base(head(tmp_path), base_config(tmp_path, "precision: int7\n"))
