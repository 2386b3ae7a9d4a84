"""What the stages make of the settings before anything runs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trt_action import engine, pair, stages
from trt_action.console import PlainConsole
from trt_action.draft import Draft, Work
from trt_action.engine import devices, kept
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.evidence import Source
from trt_action.measure import cpus
from trt_action.settings import Settings


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
