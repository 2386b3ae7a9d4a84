"""One table: fields, defaults, types and the editor's schema all say the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from trt_action import settings
from trt_action.errors import SettingsError
from trt_action.settings import ENGINE_FIELDS, Settings, config_schema
from trt_action.settings.layers import PATHS
from trt_action.settings.options import BY_NAME, OPTIONS
from trt_action.settings.schema import kebab


def test_one_field_per_row_of_the_table() -> None:
    assert [kebab(name) for name in Settings.model_fields] == [row.name for row in OPTIONS]
    assert set(BY_NAME) >= PATHS
    assert set(Settings.model_fields) >= set(ENGINE_FIELDS)


def test_defaults_are_the_tables_and_print_as_the_table_writes_them() -> None:
    effective = Settings.model_validate({"model": "a.onnx"}).effective()
    assert {row.name: effective[row.name] for row in OPTIONS if row.name != "model"} == {
        row.name: row.default for row in OPTIONS if row.name != "model"
    }
    json.dumps(effective)


@pytest.mark.parametrize("row", [row for row in OPTIONS if row.choices], ids=lambda row: row.name)
def test_literal_types_list_the_choices_of_the_table(row: Any) -> None:
    annotation = Settings.model_fields[row.name.replace("-", "_")].annotation
    literals = [arg for arg in get_args(annotation) if isinstance(arg, str)] or [
        value for part in get_args(annotation) for value in get_args(part)
    ]
    assert annotation is str or tuple(literals) == row.choices


def test_settings_are_frozen() -> None:
    one = Settings.model_validate({"model": "a.onnx"})
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 3  # type: ignore[misc]


def test_the_schema_is_one_and_describes_every_setting() -> None:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {*BY_NAME, "models"}
    assert all(schema["properties"][row.name]["description"] == row.help for row in OPTIONS)
    entry = schema["properties"]["models"]["items"]
    assert set(entry["properties"]) == set(BY_NAME)
    assert entry["anyOf"] == [{"required": [name]} for name in ("model", "endpoint", "endpoint-image")]


CONFIGS = [
    "model: a.onnx",
    "model: a.onnx\nprecision: int8\ncalibration-data: c.npz",
    "model: a.onnx\nprecision: int8",  # a model may have its own Q/DQ nodes
    "model: a.onnx\nprecision: int4",
    "model: a.onnx\nprecision: null",
    "models: [{model: a.onnx}, {model: b.onnx, seed: 3}]",
    "models: [{seed: 3}]",
    "models: []",
    "model: a.onnx\nmodels: [{model: b.onnx}]",
    "model: a.onnx\nunknown: 3",
    "model: a.onnx\nmodels: null",
    *(
        f"model: a.onnx\n{line}" + ("" if line.startswith("metric") else "\nmetric: s.py:f")
        for line in (
            "latency-threshold: 50", "latency-threshold: p99 < 50ms", "latency-threshold: [p99 < 50ms, 'p50 <= 8 us']",
            "latency-threshold: [p97 < 50ms]", "latency-threshold: [p99 > 50ms]", "latency-threshold: -3",
            "max-latency-regression: 2%", "max-latency-regression: 2", "max-latency-regression: -2%",
            "max-accuracy-drop: 0.5% relative", "max-accuracy-drop: 0.5%", "max-accuracy-drop: 0.5", "max-accuracy-drop: 0.5ms",
            "min-accuracy: 97 %", "min-accuracy: 0.97", "min-accuracy: high", "min-throughput: 2000/s", "min-throughput: 2000",
            "max-engine-size: 200MB", "max-engine-size: 200 MiB", "max-engine-size: 200", "max-engine-size: 4G",
            "max-memory: 4gb", "max-seconds: 10", "max-seconds: 10s", "metric-timeout: 10", "metric-timeout: 5m",
            "memory-arena: true", "memory-arena: yes", "memory-arena: 1", "cache: false", "cache: some/folder", "cache: 3",
            "op-types: [Conv]", "op-types: 3", "op-types: [3]", "exclude-nodes: [/a/*]", "seed: 3", "seed: -1", "seed: 1.5",
            "threads: 2000", "shapes: {x: [1, 2]}", "shapes: {x: [0]}", "shapes: {x: {opt: [1]}}",
            "shapes: {x: {min: [1], opt: [2], max: [3]}}", "shapes: {x: {values: [-1, 0]}}", "shapes: {x: {values: 3}}",
            "shapes: {x: {values: {min: [0], opt: [2], max: [9]}}}", "shapes: {x: {values: []}}", "shapes: {x: {values: [yes]}}",
            "shapes: {x: {values: {opt: [2]}}}", "shapes: {x: {values: [1], opt: [1]}}", "shapes: {x: {values: {values: [1]}}}",
            "shapes: {x: {values: [2147483647]}}", "shapes: {x: {values: [2147483648]}}", "metric: top5", "metric: top2", "metric: s.py", "name: ''",
            "confidence: 95%", "confidence: 0.95", "on-inconclusive: warn", "graph-optimization: basic",
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def editor() -> Any:
    return jsonschema.Draft202012Validator(config_schema())


@pytest.mark.parametrize("text", CONFIGS)
def test_the_editor_and_the_program_agree(tmp_path: Path, editor: Any, text: str) -> None:
    """Wherever the schema accepts, so does the program, and the other way round (apart from an empty text = unset)."""
    (tmp_path / ".trt-action.yml").write_text(text)
    try:
        settings.load({}, {}, tmp_path)
        accepted = True
    except SettingsError:
        accepted = False
    document = yaml.safe_load(text.replace(": yes", ": 'yes'"))
    by_editor = editor.is_valid(document) or "name: ''" in text or "models: null" in text
    assert by_editor == accepted


def test_the_table_is_read_without_pydantic_and_yaml() -> None:
    program = (
        "import sys, trt_action.settings.options; print([m for m in ('pydantic', 'yaml', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
