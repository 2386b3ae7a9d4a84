"""The command line with TensorRT's backends on a machine without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trt_action import cli
from trt_action.engine import devices, kept

pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx")
pytestmark = pytest.mark.skipif(devices.visible(), reason="what happens without a GPU")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRT_ACTION_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_build_for_absent_gpus_leaves_a_kept_engine(digits: Path, work: Path, capsys: Any) -> None:
    command = [
        "build",
        str(digits / "model.onnx"),
        "--backend",
        "tensorrt-rtx",
        "--compute-capabilities",
        "sm_89, 12.0",
    ]
    assert cli.main([*command, "--output", "kept", "--batch-size", "4"]) == 0
    assert capsys.readouterr().out == f"{work / 'kept'}\n"
    built, model = kept.load(work / "kept")
    assert built.record.backend == "tensorrt-rtx"
    assert built.loadable.path.name == "engine.plan"
    assert built.loadable.options.tensorrt.compute_capabilities == ("8.9", "12.0")
    assert built.loadable.sha256 == built.record.sha256
    assert model.shapes["image"].opt[0] == 4
    assert not (work / "kept" / "selftest.npz").exists()  # nobody here knows what it answers
    evidence = json.loads((work / "kept" / "evidence.json").read_text())
    assert evidence["error"] is None
    assert evidence["fingerprint"]["runtime"]["tensorrt"]["compute_capabilities"] == ["8.9", "12.0"]


def test_a_build_keeps_the_head_and_builds_nothing_else(digits: Path, work: Path) -> None:
    command = ["build", str(digits / "model.onnx"), "--base", str(digits / "base.onnx"), "--backend", "tensorrt-rtx"]
    assert cli.main([*command, "--output", "kept"]) == 0
    evidence = json.loads((work / "kept" / "evidence.json").read_text())
    assert [stage["name"] for stage in evidence["stages"]] == ["host", "model", "data", "build-head"]


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("tensorrt-rtx", "Measuring with the tensorrt-rtx backend needs a GPU that it supports"),
        ("tensorrt", "The tensorrt backend needs an NVIDIA GPU, to build as well as to run"),
    ],
)
@pytest.mark.parametrize("command", ["run", "bench", "accuracy"])
def test_measuring_is_refused_first_and_reported(
    digits: Path, work: Path, capsys: Any, command: str, backend: str, words: str
) -> None:
    assert cli.main([command, str(digits / "model.onnx"), "--backend", backend, "--output", "report"]) == 10
    said = capsys.readouterr().err
    assert words in said
    assert "trt-action build" in said  # the next step
    evidence = json.loads((work / "report" / "evidence.json").read_text())
    assert (evidence["outcome"], evidence["error"]["stage"]) == ("failed", "host")
    assert [stage["name"] for stage in evidence["stages"]] == ["host"]
    assert words in (work / "report" / "comment.md").read_text()


def test_tensorrt_builds_on_its_gpu_only(digits: Path, work: Path, capsys: Any) -> None:
    assert cli.main(["build", str(digits / "model.onnx"), "--backend", "tensorrt", "--output", "kept"]) == 10
    assert "timing kernels on the GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--workspace", "lots", "`auto`, a size (`4GB`) or a share (`80%`)"),
        ("--workspace", "120%", "out of range"),
        ("--weight-streaming", "4", "has no unit"),
        ("--compute-capabilities", "Ada", "holds `Ada`"),
        ("--optimization-level", "9", "a whole number from 0 to 5"),
        ("--version-compatible", "true", "`none`, `with-lean`, `without-lean`"),
        ("--backend", "tensorrt-rtz", "did you mean `tensorrt-rtx`"),
    ],
)
def test_settings_that_cannot_be(work: Path, capsys: Any, option: str, value: str, words: str) -> None:
    assert cli.main(["build", "m.onnx", option, value]) == 2
    assert words in capsys.readouterr().err
