"""What the stages make of the settings before anything runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

import trt_action.model as models
from trt_action import engine, pair, stages
from trt_action.console import PlainConsole
from trt_action.draft import Draft, Work
from trt_action.engine import devices, kept
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.evidence import Source
from trt_action.measure import cpus
from trt_action.settings import Settings
from trt_action.settings import load as load_settings


@pytest.mark.parametrize(("device", "asked", "threads"), [("cpu", 0, 0), ("cuda:0", 0, 1), ("cuda:0", 4, 4)])
def test_who_feeds_a_gpu_has_one_thread(monkeypatch: pytest.MonkeyPatch, device: str, asked: int, threads: int) -> None:
    """And is pinned to one CPU: the workers get as many CPUs as threads."""
    monkeypatch.setattr(engine, "resolve_device", lambda backend, name: device)
    settings = Settings.model_validate({"model": "a.onnx", "threads": asked})
    assert stages._options(settings).threads == threads


@pytest.mark.parametrize(
    ("backend", "built_for", "asked", "device", "threads"),
    [
        ("onnxruntime", "cpu", "auto", "cpu", 0),  # its graph has nodes of the CPU, though a GPU is here
        ("onnxruntime", "cuda:1", "auto", "cuda:1", 1),
        ("tensorrt-rtx", "cpu", "auto", "cuda:0", 1),  # built where no GPU is
        ("tensorrt", "cuda:0", "cuda:1", "cuda:1", 1),
    ],
)
def test_an_engine_that_was_kept_is_measured_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, built_for: str, asked: str, device: str, threads: int
) -> None:
    """With its own backend, also in the fingerprint: the one in the settings is only what a new engine would have."""
    loadable = Loadable(backend, tmp_path / "engine", RuntimeOptions(device=built_for), prepared=True)
    monkeypatch.setattr(devices, "visible", lambda: True)
    monkeypatch.setattr(kept, "is_kept", lambda folder: folder == tmp_path)
    monkeypatch.setattr(kept, "load", lambda folder: (SimpleNamespace(loadable=loadable), None))
    settings = Settings.model_validate({"model": str(tmp_path), "device": asked})
    found, options = stages._of_head(settings)
    assert (found, options.device, options.threads) == (backend, device, threads)
    assert options == stages._of_kept(settings, loadable)


@pytest.mark.parametrize("more", [{}, {"base-precision": "fp16"}])
def test_who_wants_two_precisions_of_one_model_hears_how(tmp_path: Path, digits: Path, more: dict[str, str]) -> None:
    (tmp_path / "model.onnx").write_bytes((digits / "model.onnx").read_bytes())
    settings = Settings.model_validate({"model": str(tmp_path / "model.onnx"), **more})
    draft = Draft(settings, Source())
    work = Work(settings, tmp_path / "work", engine.Cache(None, 0), PlainConsole(io.StringIO(), {}), tmp_path)
    assert pair.load_base(draft, work) is None
    assert ("To compare the model with itself in fp16, name it as `base`." in draft.base_note) == bool(more)


def test_a_base_keeps_the_shapes_of_inputs_that_head_has_lost(tmp_path: Path) -> None:
    """From its own config; the inputs of both are measured as head's config says, that of the base or not."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    _reshaping(tmp_path / "model.onnx", "size")
    (tmp_path / ".trt-action.yml").write_text("model: model.onnx\nshapes: {x: [6, 1], size: {values: [3, 2]}}\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], check=True)
    _reshaping(tmp_path / "model.onnx")
    (tmp_path / ".trt-action.yml").write_text("model: model.onnx\nbase: main\nbatch-size: 2\n")
    (ours,) = load_settings({}, {}, tmp_path)
    draft = Draft(ours, Source())
    work = Work(ours, tmp_path / "work", engine.Cache(None, 0), PlainConsole(io.StringIO(), {}), tmp_path)
    draft.model = pair.load_head(work)
    base = pair.load_base(draft, work)
    assert base is not None
    held = base.model.info.shapes["size"].values
    assert held is not None
    assert held.opt == [3, 2]
    assert draft.model.info.shapes["x"] == base.model.info.shapes["x"]
    assert base.model.info.shapes["x"].opt == [2, 1]


def test_sides_that_are_measured_at_other_values_are_compared_and_said(tmp_path: Path) -> None:
    """Kept engines have shapes of their own."""
    _reshaping(tmp_path / "model.onnx", "size")
    head, base, wider = (
        models.load(tmp_path / "model.onnx", label="m", shapes={"x": [6, 1], "size": {"values": values}}).info
        for values in ([3, 2], [2, 3], {"min": [1, 1], "opt": [3, 2], "max": [6, 6]})
    )
    draft = SimpleNamespace(head=SimpleNamespace(model=head), base=SimpleNamespace(model=base))
    assert stages._signature_notes(draft) == ["Head and base are measured at different shapes or values: `size`."]  # type: ignore[arg-type]
    draft.base.model = wider
    assert stages._signature_notes(draft) == []  # type: ignore[arg-type]


def _reshaping(path: Path, *sizes: str) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in "xy")
    held = [helper.make_tensor_value_info(name, TensorProto.INT64, [2]) for name in sizes]
    node = helper.make_node("Reshape", ["x", *sizes], ["y"]) if sizes else helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [x, *held], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(("device", "chosen"), [("cpu", {3}), ("cuda:0", {1})])
def test_each_gpu_of_a_host_has_a_cpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, chosen: set[int]
) -> None:
    """The run's only GPU is `cuda:0` in every container; its device file says which one of the host's it is."""
    pynvml = pytest.importorskip("pynvml")
    from tests.doubles.nvml import UUID, FakeNvml

    library = FakeNvml(nvmlDeviceGetMinorNumber=2)
    monkeypatch.setitem(sys.modules, pynvml.__name__, library)
    monkeypatch.setattr(devices, "facts", lambda number: SimpleNamespace(uuid=UUID))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr(cpus, "_TOPOLOGY", tmp_path)
    assert stages._cpus(RuntimeOptions(threads=1, device=device)) == chosen
    assert library.open == 0
