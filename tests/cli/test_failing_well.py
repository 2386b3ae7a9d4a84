"""Bad input at the door: the right exit code, words for a person, nothing left behind. The rooms' own tests go deeper."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import REPORT, Door, evidence, files
from trt_action.evidence import Evidence

Damage = Callable[[Path], object]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


# Models -------------------------------------------------------------------------------------------------------


def small(weight: TensorProto | None = None, op: str = "MatMul") -> onnx.ModelProto:
    """`y = x @ w`, x of [N, 4], w of 4 x 3."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weight or numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def stored(**change: Any) -> Damage:
    return lambda path: path.write_bytes(small(**change).SerializeToString())


def elsewhere(location: str) -> Damage:
    weight = TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    return stored(weight=weight)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def no_permission(path: Path) -> None:
    path.chmod(0)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


MODELS: dict[str, tuple[Damage, int, str]] = {
    "missing": (Path.unlink, 2, "does not exist"),
    "empty": (lambda p: p.write_bytes(b""), 2, "is empty (0 bytes)"),
    "truncated": (cut, 2, "do not parse"),
    "another kind of file": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), 2, "a PNG image"),
    "LFS pointer": (lambda p: p.write_bytes(POINTER), 2, "git lfs pull"),
    "folder": (folder, 2, "is a folder"),
    "external data missing": (elsewhere("weights.bin"), 2, "`weights.bin` is missing"),
    "external data outside": (elsewhere("../../weights.bin"), 2, "outside the model's folder"),
    "external data absolute": (elsewhere("/etc/passwd"), 2, "outside the model's folder"),
    "more than 2 GB declared": (
        stored(weight=TensorProto(name="w", dims=[1 << 16, 1 << 16], data_type=TensorProto.FLOAT)),
        2,
        "(17.2 GB) and holds 0 bytes",
    ),
    "NaN weights": (stored(weight=numpy_helper.from_array(np.full((4, 3), np.nan, np.float32), "w")), 2, "hold NaN"),
    "unknown operator": (stored(op="Frobnicate"), 2, "`Frobnicate` (node `product`) does not exist"),
    "no permission": (no_permission, 8, "may not be read by this user"),
}


def without_overriding_permissions() -> None:
    """In the child before exec: root, too, is held by the permissions of files (capabilities(7))."""
    import ctypes

    drop, override, search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for capability in (override, search):
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


@pytest.mark.parametrize("case", MODELS)
def test_bad_models(door: Door, case: str) -> None:
    damage, code, words = MODELS[case]
    damage(door.cwd / "model.onnx")
    arguments = ("build", "--output", "out", "--base", "none")
    result = door.refused(code, *arguments, preexec_fn=without_overriding_permissions)
    assert words in result.words
    assert result.out == ""
    assert files(door.cwd / "out") == {"evidence.json"}
    record = Evidence.model_validate(evidence(door.cwd / "out"))
    assert record.outcome == "failed"
    assert record.error
    assert record.error.stage == "model"


def test_a_broken_base_that_was_named_stops_the_run(door: Door) -> None:
    (door.cwd / "base.onnx").write_bytes(POINTER)
    assert "git lfs pull" in door.refused(2, "compare", "--output", "out").words
    assert files(door.cwd / "out") == REPORT


# Data ---------------------------------------------------------------------------------------------------------


def saved(**arrays: Any) -> Damage:
    return lambda path: np.savez(path, **arrays)


IMAGES = np.zeros((4, 1, 8, 8), np.float32)
CALIBRATION: dict[str, tuple[Damage, str]] = {
    "missing": (Path.unlink, "does not exist"),
    "not an archive": (lambda p: p.write_bytes(b"PK\3\4" + bytes(99)), "calibration.npz"),
    "wrong shape": (saved(image=np.zeros((4, 3, 8, 8), np.float32)), "shape"),
    "wrong dtype": (saved(image=np.full(IMAGES.shape, "a")), "image"),
    "pickled": (saved(image=np.array([{}], object)), "image"),
    "wrong names": (saved(imgae=IMAGES, other=IMAGES), "`image`"),
    "no samples": (saved(image=IMAGES[:0]), "sample"),
    "NaN": (saved(image=IMAGES * np.nan), "NaN"),
}


@pytest.mark.parametrize("case", CALIBRATION)
def test_bad_calibration_data(door: Door, case: str) -> None:
    damage, words = CALIBRATION[case]
    damage(door.cwd / "calibration.npz")
    assert words in door.refused(2, "build", "--base", "none", "--output", "out").words


@pytest.mark.parametrize(
    ("labels", "words"),
    [(np.zeros(3, np.int64), "3"), (np.full(4, 99), "99")],
    ids=["wrong length", "no such class"],
)
def test_bad_labels(door: Door, labels: Any, words: str) -> None:
    saved(image=IMAGES, labels=labels)(door.cwd / "validation.npz")
    arguments = ("--precision", "fp32", "--base", "none", "--output", "out")
    assert words in door.refused(2, "accuracy", *arguments).words


def test_labels_of_another_kind_are_not_checked(door: Door) -> None:
    """A user's own metric may take labels of any shape; top-1 cannot, and says so instead of passing."""
    saved(image=IMAGES, labels=np.zeros((4, 2, 2)))(door.cwd / "validation.npz")
    door("accuracy", "--precision", "fp32", "--base", "none", "--output", "out")
    record = evidence(door.cwd / "out")
    assert "Labels of shape [4, 2, 2]" in record["accuracy"]["not_checked"]
    assert {gate["name"]: gate["status"] for gate in record["gates"]}["min-accuracy"] == "not-checked"


def test_int8_without_calibration_data_is_refused(door: Door) -> None:
    text = (door.cwd / ".trt-action.yml").read_text()
    (door.cwd / ".trt-action.yml").write_text(text.replace("calibration-data", "# calibration-data"))
    assert "calibration-data" in door.refused(2, "build").words


METRICS: dict[str, tuple[str, str]] = {
    "no such function": ("x = 1", "score"),
    "syntax": ("def score(:", "score.py"),
    "raises": ("def score(*_): raise ValueError('bo\\x1b[31mom')", "ValueError"),
    "NaN": ("def score(*_): return float('nan')", "nan"),
    "no number": ("def score(*_): return 'good'", "number"),
    "leaves": ("import os\ndef score(*_): os._exit(7)", "exit code 7"),
    "raises SystemExit": ("import sys\ndef score(*_): sys.exit(7)", "SystemExit"),
    "hangs": ("import time\ndef score(*_): time.sleep(600)", "1 s"),
    "leaves a process": (
        "import subprocess, time\ndef score(*_): subprocess.Popen(['sleep', '600']); time.sleep(600)",
        "1 s",
    ),
}


def test_what_would_fail_at_the_end_fails_at_the_start(door: Door) -> None:
    result = door.refused(7, "run", "--base", "none", "--metric", "none.py:score", "--output", "out")
    assert "does not exist" in result.words
    assert evidence(door.cwd / "out")["error"]["stage"] == "data"
    result = door.refused(8, "run", "--base", "none", "--output", "model.onnx")
    assert "•" not in result.err


@pytest.mark.parametrize("case", METRICS)
def test_bad_metrics(door: Door, case: str) -> None:
    code, words = METRICS[case]
    (door.cwd / "score.py").write_text(code + "\n")
    result = door.refused(
        7, "accuracy", "--precision", "fp32", "--base", "none", "--metric", "score.py:score", "--metric-timeout", "1s"
    )
    assert words in result.words
    assert "\x1b" not in result.err
    assert evidence(door.cwd / "trt-action-report")["head"]["engine"]["sha256"]


# Templates and evidence ---------------------------------------------------------------------------------------


@pytest.fixture
def record(door: Door) -> dict[str, Any]:
    """Evidence of a run that worked, as `good.json`."""
    assert door("accuracy", "--precision", "fp32", "--base", "none", "--output", "out").code == 0
    shutil.copy(door.cwd / "out" / "evidence.json", door.cwd / "good.json")
    return evidence(door.cwd / "out")


TEMPLATES: dict[str, bytes] = {
    "syntax": b"{% if %}",
    "unknown": b"{{ nothing.at.all }}",
    "out of the sandbox": b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "endless": b"{% for i in range(1000000000) %}{{ i }}{% endfor %}",
    "no text": b"\xff\xfe\x00",
    "of nobody": b'{% extends "nowhere.j2" %}',
    "reads files": b'{% include "/etc/passwd" %}',
    "divides by zero": b"{{ 1 / 0 }}",
}


def test_bad_templates(door: Door, record: dict[str, Any]) -> None:
    for case, content in TEMPLATES.items():
        (door.cwd / "mine.j2").write_bytes(content)
        result = door.refused(2, "render", "good.json", "--template", "mine.j2", "--output", "never.md", timeout=30)
        assert "mine.j2" in result.words, case
        assert not (door.cwd / "never.md").exists()
    assert "root:" not in result.out
    door.refused(2, "render", "good.json", "--template", "gone.j2")


def test_a_bad_template_is_found_before_the_work(door: Door) -> None:
    (door.cwd / "mine.j2").write_text("{% if %}")
    assert "• Build" not in door.refused(2, "accuracy", "--template", "mine.j2").err


def hostile_evidence(good: dict[str, Any]) -> dict[str, bytes]:
    def changed(**change: Any) -> bytes:
        return json.dumps(good | change).encode()

    return {
        "empty": b"",
        "no JSON": b"\x80\x02}q",
        "a list": b"[]",
        "deep": b"[" * 200_000,
        "deep in a place for anything": changed(settings={"a": 0}).replace(
            b'{"a": 0}', b'{"a": ' * 5000 + b"0" + b"}" * 5000
        ),
        "another version": changed(schema_version="9.9"),
        "unknown key": changed(surprise=1),
        "NaN": changed(stages=[{"name": "x", "seconds": float("nan")}]),
        "long": changed(base_note="x" * 30_000),
        "surrogate": changed(base_note="X").replace(b'"X"', b'"\\ud800"'),
    }


def test_hostile_evidence(door: Door, record: dict[str, Any]) -> None:
    for case, content in hostile_evidence(record).items():
        (door.cwd / "bad.json").write_bytes(content)
        assert "bad.json" in door.refused(2, "render", "bad.json").words, case
    assert "bad.json" in door.refused(2, "compare", "--from", "bad.json").words
    os.mkfifo(door.cwd / "pipe.json")
    for name in ("gone.json", "out", "pipe.json", "/dev/zero"):
        door.refused(2, "render", name)
    (door.cwd / "bad.json").write_bytes(b" " * 64_000_001)
    assert "larger than 64 MB" in door.refused(2, "render", "bad.json").words


def test_foreign_text_in_evidence_stays_text(door: Door, record: dict[str, Any]) -> None:
    record["base_note"] = "<script>alert(1)</script> ::error::x \x1b[31m @everyone {{ 7 * 7 }} {% raw %}"
    (door.cwd / "odd.json").write_text(json.dumps(record))
    for form in ("comment", "summary", "html"):
        result = door("render", "odd.json", "--format", form)
        assert result.code == 0
        assert "<script>alert" not in result.out
        assert "\x1b" not in result.out
        assert "{{ 7 * 7 }}" in result.out.replace("&#123;", "{").replace("&#125;", "}").replace("&#42;", "*")


# Settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: a.onnx\n", "Did you mean `model`?"),
        ("model: [\n", ".trt-action.yml"),
        ("model: a.onnx\nmax-latency-regression: 2\n", "%"),
        ("model: a.onnx\nmax-engine-size: 200\n", "MB"),
        ("model: a.onnx\nmodels: [{model: b.onnx}]\n", "Both `model` and `models`"),
        ("model: a.onnx\nmodel: b.onnx\n", "model"),
        ("&a [*a, *a]", ".trt-action.yml"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b]\n",
            ".trt-action.yml",
        ),
        ("!!python/object/apply:os.system ['touch pwned']\n", ".trt-action.yml"),
        ("\x00", ".trt-action.yml"),
    ],
)
def test_bad_configs(door: Door, text: str, words: str) -> None:
    (door.cwd / ".trt-action.yml").write_text(text)
    result = door.refused(2, "run")
    assert words in result.words
    assert result.out == ""
    assert not (door.cwd / "pwned").exists()
    assert not (door.cwd / "trt-action-report").exists()
