"""From a model to an engine, with the real precision stage, child and cache."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.engine.conftest import F32, Save
from trt_action import data, engine
from trt_action import model as models
from trt_action.engine import building
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.building import BuiltEngine
from trt_action.engine.cache import Cache, file_record
from trt_action.errors import BackendUnavailableError, BuildError
from trt_action.precision import Recipe

ONE = RuntimeOptions(threads=1)
GB = 10**9


def obtain(path: Path, work: Path, cache: Cache, precision: Any = "fp32", **changed: Any) -> BuiltEngine:
    model = models.load(path, label=path.name, name=None, shapes=None, batch_size=1)
    arguments = {"backend": "onnxruntime", "options": ONE, "timeout": 120, "work_dir": work, **changed}
    return engine.obtain(model, Recipe(precision), arguments.pop("calibration", None), cache=cache, **arguments)


def run(loadable: Loadable, **feeds: Any) -> Any:
    session = engine.backend(loadable.backend).load(loadable)
    session.bind(feeds)
    session.run()
    found = next(iter(session.fetch().values()))
    session.close()
    return found


def test_int8_digits_are_built_once_and_then_found(digits: Path, tmp_path: Path) -> None:
    path = digits / "model.onnx"
    info = models.load(path, label="model.onnx", name=None, shapes=None, batch_size=1).info
    calibration = data.load(
        str(digits / "calibration.npz"),
        info,
        origin="calibration",
        need_labels=False,
        limit=16,
        timeout=60,
        base_dir=digits,
    )
    cache = Cache(tmp_path / "cache", GB)
    told: list[str] = []
    built = obtain(
        path, tmp_path / "w1", cache, "int8", calibration=calibration, progress=lambda text, share: told.append(text)
    )
    record = built.record
    content = built.loadable.path.read_bytes()
    assert (record.sha256, record.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (record.from_cache, record.precision, record.calibration_sha256) == (False, "int8", calibration.sha256)
    assert record.achieved_precision.quantize_nodes > 0
    assert record.build_seconds > 0
    assert any("onnxruntime" in text for text in told)
    assert built.prepared.parent == built.loadable.path.parent
    assert list((tmp_path / "w1").iterdir()) == []  # no second copy
    again = obtain(path, tmp_path / "w2", cache, "int8", calibration=calibration, options=replace(ONE, threads=2))
    assert again.record == record.model_copy(update={"from_cache": True})
    assert cache.warnings == []
    x = calibration.inputs["image"][:4]
    reference = run(engine.reference(models.load(path, label="m", name=None, shapes=None, batch_size=1)), image=x)
    for loadable in (built.loadable, engine.unoptimized(built)):
        found = run(loadable, image=x)
        assert 0 < np.linalg.norm(found - reference) / np.linalg.norm(reference) < 0.1
    cache.release()


def test_what_decides_the_bytes_is_in_the_key(conv: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", GB)
    first = obtain(conv, tmp_path / "1", cache)
    level = obtain(conv, tmp_path / "2", cache, options=RuntimeOptions(1, "basic"))
    half = obtain(conv, tmp_path / "3", cache, "fp16")
    spin = obtain(conv, tmp_path / "4", cache, options=RuntimeOptions(2, memory_arena=False, spinning=True))
    assert len({built.record.cache_key for built in (first, level, half)}) == 3
    assert spin.record.cache_key == first.record.cache_key
    assert spin.loadable.options.spinning
    material = json.loads((first.loadable.path.parent / "entry.json").read_text())["material"]
    assert material.keys() == {"model", "shapes", "recipe", "calibration", "backend", "identity", "code"}
    assert {name: list(shape) for name, shape in material["shapes"].items()} == {"x": ["min", "opt", "max"]}
    cache.release()


def test_without_a_cache_the_engine_stays_in_the_work_folder(conv: Path, tmp_path: Path) -> None:
    cache = Cache(None, GB)
    built = obtain(conv, tmp_path / "work", cache)
    assert built.loadable.path.is_relative_to(tmp_path / "work")
    assert run(built.loadable, x=np.ones((2, 1, 8, 8), np.float32)).shape == (2, 8)
    assert built.prepared.exists()
    model = models.load(conv, label="m", name=None, shapes=None, batch_size=1)
    assert building.baseline(model, ONE).options == ONE
    on_a_gpu = replace(
        ONE, device="cuda:0", cuda_graph=True
    )  # this library has no CUDA provider: all of the CPU instead
    assert building.baseline(model, on_a_gpu).options == RuntimeOptions(threads=0)
    assert building.baseline(model, on_a_gpu, threads_on_cpu=4).options == RuntimeOptions(threads=4)
    assert building.unoptimized(built).options.threads == built.loadable.options.threads == 1


def test_an_engine_of_several_files_has_the_digest_of_their_listing(save: Save, tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.full((64, 64), 0.5, np.float32), "w")
    io = [helper.make_tensor_value_info(name, F32, ["N", 64]) for name in ("x", "y")]
    path = save([helper.make_node("MatMul", ["x", "w"], ["y"])], io[:1], io[1:], [weights], external=True)
    (tmp_path / "out").mkdir()
    main = building.compile_in_child(path, "onnxruntime", ONE, tmp_path / "out", timeout=60)
    names = [main.name, "engine.onnx.data"]
    records = {name: file_record(main.parent / name) for name in names}
    listing = subprocess.run(["sha256sum", *names], cwd=main.parent, capture_output=True, check=True).stdout
    assert building.digest(records, names) == hashlib.sha256(listing).hexdigest()
    assert building.digest(records, names[:1]) == hashlib.sha256(main.read_bytes()).hexdigest()


def test_a_precision_that_the_backend_lacks_is_refused_before_any_work(conv: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="cannot run precision `bf16`"):
        obtain(conv, tmp_path / "work", Cache(None, GB), "bf16")
    assert not (tmp_path / "work").exists()


def test_builds_that_fail(save: Save, conv: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match=r"within 0\.01 s") as caught:
        building.compile_in_child(conv, "onnxruntime", ONE, tmp_path / "out", timeout=0.01)
    assert "build-timeout" in caught.value.fix
    io = [helper.make_tensor_value_info(name, F32, ["N", 4]) for name in ("x", "y")]
    unknown = save([helper.make_node("Foo", ["x"], ["y"], domain="my.ops")], io[:1], io[1:])
    with pytest.raises(BuildError, match=r"operator `my\.ops:Foo`"):
        building.compile_in_child(unknown, "onnxruntime", ONE, tmp_path / "out", timeout=60)


PARALLEL = """
import sys
from pathlib import Path
from trt_action import engine, model as models
from trt_action.engine.backend import RuntimeOptions
from trt_action.precision import Recipe
path, cache, work = map(Path, sys.argv[1:])
built = engine.obtain(
    models.load(path, label="m", name=None, shapes=None, batch_size=1), Recipe("fp32"), None, backend="onnxruntime",
    options=RuntimeOptions(1), cache=engine.Cache(cache, 10**9), work_dir=work, timeout=120,
)
print(built.record.sha256, built.record.from_cache)
"""


def test_parallel_runs_build_once(conv: Path, tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-c", PARALLEL, str(conv), str(tmp_path / "cache"), str(tmp_path / f"work-{i}")]
        for i in range(3)
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert len({digest for digest, _ in said}) == 1
    assert sorted(cached for _, cached in said) == ["False", "True", "True"]
