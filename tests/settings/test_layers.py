"""Defaults < config file < environment < command line, per model, and what a contradiction says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trt_action import settings
from trt_action.errors import SettingsError
from trt_action.settings import Settings


def load(
    folder: Path, config: str = "", cli: Mapping[str, str | None] | None = None, env: Mapping[str, str] | None = None
) -> list[Settings]:
    if config:
        (folder / ".trt-action.yml").write_text(config)
    return settings.load(cli or {}, env or {}, folder)


def refused(folder: Path, config: str = "", **layers: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(folder, config, **layers)
    return caught.value


def test_each_layer_goes_over_the_one_below(tmp_path: Path) -> None:
    (one,) = load(
        tmp_path,
        "model: a.onnx\nseed: 1\nthreads: 1\nconcurrency: 1\nbatch-size: 1\n",
        env={
            "TRT_ACTION_THREADS": "2",
            "TRT_ACTION_CONCURRENCY": "2",
            "INPUT_CONCURRENCY": "3",
            "INPUT_BATCH-SIZE": "3",
        },
        cli={"batch-size": "4", "name": None},
    )
    assert (one.seed, one.threads, one.concurrency, one.batch_size, one.calibration_samples) == (1, 2, 3, 4, 128)
    sources = [one.sources[key] for key in ("seed", "threads", "concurrency", "batch-size", "calibration-samples")]
    assert sources == ["file", "env", "env", "cli", "default"]


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_unset(tmp_path: Path, empty: str) -> None:
    (one,) = load(
        tmp_path,
        "model: a.onnx\nprecision: fp16\nname:\n",
        env={"INPUT_PRECISION": empty, "TRT_ACTION_PRECISION": empty},
        cli={"precision": empty},
    )
    assert one.precision == "fp16"
    assert one.display_name == "a"


def test_paths_start_at_the_config_file_or_at_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    config = tmp_path / "conf" / "c.toml"
    config.write_text(
        'model = "m/a.onnx"\nmetric = "score.py:f1"\ncalibration-data = "../data/c.npz"\noutput = "/abs/out"\n'
        'base = "old/b.onnx"\ncache = "cached"\n'
    )
    (one,) = settings.load({"validation-data": "v.py:make"}, {}, tmp_path, Path("conf/c.toml"))
    assert one.model == tmp_path / "conf/m/a.onnx"
    assert one.metric == f"{tmp_path}/conf/score.py:f1"
    assert one.calibration_data == f"{tmp_path}/conf/../data/c.npz"
    assert one.validation_data == f"{tmp_path}/v.py:make"
    assert one.base == f"{tmp_path}/conf/old/b.onnx"
    assert one.cache == one.cache_folder() == tmp_path / "conf/cached"
    assert one.output == Path("/abs/out")
    assert one.config_file == config
    assert one.effective()["model"] == "conf/m/a.onnx"
    assert one.effective()["output"] == "/abs/out"


@pytest.mark.parametrize("base", ["auto", "none", "main", "origin/main", "HEAD~1", "main:models/a.onnx"])
def test_a_base_that_is_a_revision_stays_one(tmp_path: Path, base: str) -> None:
    (one,) = load(tmp_path, cli={"model": "a.onnx", "base": base})
    assert one.base == base


def test_entries_of_models_override_the_top_level(tmp_path: Path) -> None:
    a, b = load(
        tmp_path,
        "latency-threshold: 50\nprecision: bf16\n"
        "models:\n  - model: a.onnx\n    precision: fp16\n  - {model: b.onnx, latency-threshold: null}\n",
        env={"INPUT_SEED": "7"},
    )
    assert (a.precision, [str(rule) for rule in a.latency_threshold]) == ("fp16", ["p99 < 50 ms"])
    assert (b.precision, b.latency_threshold) == ("bf16", ())
    assert a.seed == b.seed == 7


def test_a_model_from_outside_picks_its_entry(tmp_path: Path) -> None:
    config = "seed: 1\nmodels:\n  - {model: m/a.onnx, seed: 2}\n  - {model: m/b.onnx, seed: 3}\n"
    (picked,) = load(tmp_path, config, cli={"model": "./m/../m/b.onnx"})
    assert picked.seed == 3
    (other,) = load(tmp_path, config, cli={"model": "c.onnx"})
    assert (other.seed, other.display_name) == (1, "c")


def test_a_name_in_the_file_does_not_stick_to_another_model(tmp_path: Path) -> None:
    config = "model: a.onnx\nname: The A\nprecision: fp16\n"
    (other,) = load(tmp_path, config, cli={"model": "b.onnx"})
    assert (other.display_name, other.precision) == ("b", "fp16")


def test_effective_settings_are_json_and_read_back_the_same(tmp_path: Path) -> None:
    (one,) = load(
        tmp_path,
        "model: a.onnx\nprecision: int8\ncalibration-data: c.npz\nlatency-threshold: [p99 < 5ms, p50 <= 800us]\n"
        "max-accuracy-drop: 0.5% relative\nmin-accuracy: 97%\nmin-throughput: 2000/s\nmax-engine-size: 200MiB\n"
        "max-memory: 4GB\nmax-latency-regression: 2%\nmeasure-seconds: 500ms\nshapes: {x: {min: [1], opt: [2], max: [4]}}\n"
        "exclude-nodes: [/head/*]\ncache: false\nbase: none\n",
    )
    (again,) = settings.load({}, {}, tmp_path, _as_config(tmp_path, one.effective()))
    assert {name: getattr(again, name) for name in Settings.model_fields} == {
        name: getattr(one, name) for name in Settings.model_fields
    }
    assert again.effective() == one.effective()


def _as_config(folder: Path, effective: Mapping[str, Any]) -> Path:
    import json

    path = folder / "again.yml"
    path.write_text(json.dumps(effective))
    return path


@pytest.mark.parametrize(
    ("config", "layers", "what", "fix"),
    [
        ("model: a\nprecison: int8\n", {}, "`precison` (.trt-action.yml, line 2)", "Did you mean `precision`?"),
        ("model: a\nmax_seconds: 3s\n", {}, "`max_seconds`", "Did you mean `max-seconds`?"),
        ("models: [{model: a, sede: 1}]\n", {}, "`sede` (.trt-action.yml, line 1)", "Did you mean `seed`?"),
        ("model: a\n", {"cli": {"tolerence": "1%"}}, "`tolerence` (command line)", "Did you mean `tolerance`?"),
        ("model: a\n", {"env": {"TRT_ACTION_MAX_SECOND": "1"}}, "(environment)", "`TRT_ACTION_MAX_SECONDS`"),
        ("model: a\nprecision: int7\n", {}, "`precision: int7` (.trt-action.yml, line 2)", "precision: int8"),
        ("model: a\n", {"env": {"INPUT_MAX-SECONDS": "fast"}}, "`max-seconds: fast` (input `max-seconds`)", "30s"),
        ("model: a\n", {"env": {"INPUT_MEMORY-ARENA": "True"}}, "is not a boolean", "memory-arena: true"),
        ("model: a\n", {"cli": {"seed": "-1"}}, "`seed: -1` (command line) is out of range", "seed: 1"),
        ("model: a\n", {"cli": {"metric": "top-1"}}, "did you mean `top1`", "metric: top1"),
        ("model: a\n", {"cli": {"shapes": "{x: [1"}}, "`--shapes`, line 1", ""),
        ("model: a\n", {"cli": {"shapes": "{x: {min: [2], opt: [1], max: [3]}}"}}, "min ≤ opt ≤ max", ""),
        (
            "model: a\n",
            {"cli": {"shapes": "{k: {values: {min: [2], opt: [1], max: [3]}}}"}},
            "order min ≤ opt ≤ max for",
            "",
        ),
        (
            "model: a\n",
            {"cli": {"shapes": "{k: {values: {min: [2], opt: [2, 2], max: [3]}}}"}},
            "different lengths",
            "",
        ),
        ("model: a\n", {"cli": {"shapes": "{k: {values: 8}}"}}, "1 to 64 values", ""),
        ("model: ~/a.onnx\n", {}, "only a shell expands", ""),
        ("models: {model: a}\n", {}, "not a list of 1 to 64", "models: [{model: a.onnx}]"),
        ("models: []\n", {}, "not a list of 1 to 64", ""),
        ("models: [{name: a}]\n", {}, "Entry 1 of `models`", "Add `model"),
        ("model: a\nmodels: [{model: b}]\n", {}, "Both `model` and `models`", ""),
        ("models: [{model: x/a.onnx}, {model: y/a.onnx}]\n", {}, "Two models are called `a`", "`name`"),
        ("precision: fp16\n", {}, "No model is named", "trt-action run model.onnx"),
        ("model: a\nmargin: 2%\n", {}, "`tolerance: 2%` is not above `margin: 2%`", "tolerance: 8%"),
        ("model: a\nmin-accuracy: 97\n", {}, "`min-accuracy: 97` is above 1", "`min-accuracy: 97%`"),
        ("model: a\nmax-accuracy-drop: 0.5\n", {}, "has no unit", "`0.5%`"),
        ("model: a\nprecision: int8\ncalibration-data: c\nop-types: []\n", {}, "empty `op-types`", ""),
        ("model: a\nprecision: fp8\nop-types: []\n", {}, "`precision: fp8` with an empty `op-types`", ""),
        ("model: a\nprecision: bf16\nkeep-accuracy: true\n", {}, "`precision: bf16` cannot be searched", "fp16"),
        ("model: a\nprecision: auto\nhigh-precision: bf16\n", {}, "`high-precision: bf16` cannot be", "fp16"),
        ("model: a\nbase-precision: auto\n", {}, "`base-precision: auto`", ""),
        ("model: a\nbackend: tensorrt\ndevice: cpu\n", {}, "runs on NVIDIA GPUs only", "`backend: onnxruntime`"),
        ("model: a\nbackend: tensorrt\ncompute-capabilities: [8.9]\n", {}, "the GPU that is there", "tensorrt-rtx"),
        ("model: a\nbackend: tensorrt-rtx\nversion-compatible: with-lean\n", {}, "no lean runtime", ""),
        ("model: a\nworkspace: 4\n", {}, "`workspace: 4` (.trt-action.yml, line 2) has no unit", "workspace: 4GB"),
    ],
)
def test_what_is_wrong_names_key_value_place_and_next_step(
    tmp_path: Path, config: str, layers: dict[str, Any], what: str, fix: str
) -> None:
    error = refused(tmp_path, config, **layers)
    assert what in error.what + error.why
    assert fix in error.fix


def test_every_refused_value_is_named_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, "model: a\nseed: x\nmargin: 2\nthreads: -1\n")
    assert "`threads: -1`" in error.what
    assert "Also refused: `margin`, `seed`." in error.why


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ("min-accuracy: 97%", "`min-accuracy` is not checked"),
        ("max-accuracy-drop: 1%", "`max-accuracy-drop` is not checked"),
        ("base: none\nmax-latency-regression: 1%", "`max-latency-regression` is not checked"),
        ("cuda-graph: true\ndevice: cpu", "`cuda-graph` has no effect"),
        ("exclude-nodes: [a]", "`exclude-nodes` has no effect"),
        ("keep-accuracy: true\nprecision: tf32", "`keep-accuracy` has no effect: `precision` is `tf32`"),
        ("calibration-data: c.npz\nprecision: fp16", "`calibration-data` calibrates nothing"),
        ("calibration-data: c.npz\nprecision: int8\nvalidation-data: c.npz", "flattering"),
        ("batch-size: 2\nshapes: {x: [1]}", "`batch-size` has no effect"),
    ],
)
def test_a_setting_without_effect_is_a_note(tmp_path: Path, config: str, note: str) -> None:
    (one,) = load(tmp_path, f"model: a.onnx\n{config}\n")
    assert len(one.notes) == 1
    assert note in one.notes[0]


def test_a_batch_size_beside_values_has_an_effect(tmp_path: Path) -> None:
    (one,) = load(tmp_path, "model: a.onnx\nbatch-size: 2\nshapes: {size: {values: [1]}}\n")
    assert one.notes == ()


def test_settings_of_tensorrt_wait_in_a_config_file_for_their_backend(tmp_path: Path) -> None:
    (one,) = load(tmp_path, "model: a.onnx\nworkspace: 4GB\naux-streams: 2\ncompute-capabilities: [8.9, sm_120]\n")
    assert one.notes == ()
    assert (one.workspace, one.aux_streams, one.compute_capabilities) == ("4GB", 2, ("8.9", "12.0"))
    (typed,) = load(tmp_path, "model: a.onnx\n", cli={"workspace": "1024MiB"})
    assert typed.workspace == "1GiB"
    assert typed.notes == ("`workspace` has no effect: `backend` is `onnxruntime`.",)


def test_foreign_variables_are_noted_and_not_shown(tmp_path: Path) -> None:
    (one,) = load(
        tmp_path,
        cli={"model": "a.onnx"},
        env={"TRT_ACTION_SERVICE_HOST": "10.0.0.1", "TRT_ACTION_PARENT": "1", "INPUT_TOKEN": "hunter2", "PATH": "/bin"},
    )
    assert one.notes == ("The environment variable `TRT_ACTION_SERVICE_HOST` is no setting and was not read.",)
    assert "hunter2" not in repr(one) + str(one.effective())


def test_the_config_may_be_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "other.yml").write_text("model: b.onnx\n")
    (one,) = load(tmp_path, "model: a.onnx\n", env={"INPUT_CONFIG": "other.yml"})
    assert one.model
    assert one.model.name == "b.onnx"


def test_a_custom_metric_has_its_own_unit(tmp_path: Path) -> None:
    (one,) = load(
        tmp_path, "model: a\nmetric: s.py:psnr\nmin-accuracy: 32.5\nmax-accuracy-drop: 0.5\nvalidation-data: v\n"
    )
    assert one.min_accuracy is not None
    assert one.min_accuracy.value == 32.5
    assert not one.notes


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(value: str) -> Path | None:
        return load(tmp_path, cli={"model": "a", "cache": value})[0].cache_folder()

    monkeypatch.delenv("TRT_ACTION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert folder("auto") == folder("true") == Path("/somewhere/trt-action")
    assert folder("false") is None
    assert folder("here") == tmp_path / "here"
    monkeypatch.setenv("TRT_ACTION_CACHE", "/named")
    assert folder("auto") == Path("/named")
    monkeypatch.delenv("TRT_ACTION_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert folder("auto") is None
