"""The version folder: what is kept of a measured engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.engine.test_building import GB, ONE
from tests.report.samples import passed
from trt_action import arrays, data, engine
from trt_action import model as models
from trt_action.engine import kept
from trt_action.engine.backend import RuntimeOptions
from trt_action.engine.building import BuiltEngine
from trt_action.engine.cache import Cache
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BuildError
from trt_action.evidence import Evidence, ModelInfo
from trt_action.precision import Recipe


@pytest.fixture
def built(conv: Path, tmp_path: Path) -> tuple[BuiltEngine, ModelInfo, Path]:
    """An engine, its model, and one batch of inputs."""
    model = models.load(conv, label="conv.onnx", name=None, shapes=None, batch_size=4)
    obtained = engine.obtain(
        model, Recipe("fp32"), None, backend="onnxruntime", options=ONE, cache=Cache(None, GB), work_dir=tmp_path / "w",
        timeout=120,
    )  # fmt: skip
    feeds = tmp_path / "feeds.npz"
    data.save_feeds(data.example_feeds(model.info, 0, None), feeds)
    return obtained, model.info, feeds


def test_a_version_folder_is_whole(built: tuple[BuiltEngine, ModelInfo, Path], tmp_path: Path) -> None:
    obtained, info, feeds = built
    folder = tmp_path / "kept"
    main = kept.keep(obtained, info, folder, feeds=feeds)
    kept.write_evidence(folder, passed())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [main.name, kept.RECORD, kept.EVIDENCE, kept.SELFTEST]
    )
    again, model = kept.load(folder)
    assert (again.record, model) == (obtained.record, info)

    recorded = arrays.load_npz(folder / kept.SELFTEST)
    assert set(recorded) == {"input:x", "output:y"}
    session = engine.backend("onnxruntime").load(again.loadable)
    session.bind({"x": recorded["input:x"]})
    session.run()
    np.testing.assert_array_equal(session.fetch()["y"], recorded["output:y"])
    session.close()


def test_the_kept_evidence_has_no_samples(built: tuple[BuiltEngine, ModelInfo, Path], tmp_path: Path) -> None:
    obtained, info, feeds = built
    whole = passed()
    assert whole.head
    assert whole.head.latency
    assert whole.comparison
    kept.keep(obtained, info, tmp_path / "kept", feeds=feeds)
    text = kept.write_evidence(tmp_path / "kept", whole).read_text()
    slim = Evidence.model_validate_json(text)
    assert slim.head
    assert slim.head.latency
    assert slim.comparison
    assert (slim.comparison.series, slim.head.latency.series) == (None, None)
    assert slim.comparison.p50_ratio == whole.comparison.p50_ratio
    assert slim.head.latency.p99_ms == whole.head.latency.p99_ms


def test_a_changed_engine_is_refused(built: tuple[BuiltEngine, ModelInfo, Path], tmp_path: Path) -> None:
    obtained, info, _ = built
    main = kept.keep(obtained, info, tmp_path / "kept")
    main.write_bytes(main.read_bytes() + b"\0")
    with pytest.raises(BuildError, match="cannot be trusted"):
        kept.load(tmp_path / "kept")


@pytest.mark.parametrize(
    "forged",
    [
        {"threads": "evil"},
        {"threads": True},
        {"threads": -5},
        {"device": "cuda:0`\n::error::"},
        {"device": "cuda:99999999999999999999"},
        {"graph_optimization": "__class__"},
        {"memory_arena": "no"},
        {"tensorrt": []},
        {"tensorrt": {"compute_capabilities": ["<b>8</b>"]}},
        {"tensorrt": {"compute_capabilities": "8.9"}},
        {"tensorrt": {"weight_streaming": 5}},
        {"tensorrt": {"aux_streams": "1"}},
        {"unknown": 1},
    ],
)
def test_a_record_of_a_stranger_holds_options_or_nothing(
    built: tuple[BuiltEngine, ModelInfo, Path], tmp_path: Path, forged: dict[str, object]
) -> None:
    obtained, info, _ = built
    kept.keep(obtained, info, tmp_path / "kept")
    path = tmp_path / "kept" / kept.RECORD
    record = json.loads(path.read_text())
    record["options"] |= forged
    path.write_text(json.dumps(record))
    with pytest.raises(BuildError, match="its record is not valid"):
        kept.load(tmp_path / "kept")


def test_options_survive_the_way_through_json() -> None:
    asked = TensorRTOptions(
        workspace="80%", aux_streams=2, weight_streaming="4 GB", compute_capabilities=("8.9", "12.0")
    )
    options = RuntimeOptions(threads=3, device="cuda:1", tf32=True, tensorrt=asked)
    assert RuntimeOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
