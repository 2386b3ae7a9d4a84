"""Every command for real, on the digits example."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
import yaml

from tests.cli.conftest import REPORT, Door, Result, evidence, files

ROOT = Path(__file__).resolve().parents[2]

ENGINE = ("backend", "precision", "achieved_precision", "sha256", "bytes", "build_seconds", "from_cache")
KEYS = [
    "schema_version",
    "outcome",
    "model.sha256",
    "fingerprint.digest",
    *(f"{side}.engine.{key}" for side in ("head", "base") for key in ENGINE),
    *(f"{side}.latency.{key}" for side in ("head", "base") for key in ("n", "p50_ms", "p90_ms", "p95_ms", "p99_ms")),
    *(f"comparison.{ratio}.{key}" for ratio in ("p50_ratio", "p99_ratio") for key in ("estimate", "low", "high")),
    "comparison.verdict",
    "accuracy.parity",
    *(f"accuracy.task.{key}" for key in ("metric", "reference", "head", "base")),
    "gates.0.name",
    "gates.0.status",
    "stages.0.name",
    "stages.0.seconds",
]
"""What others read from an evidence file."""


@pytest.fixture(scope="module")
def built(shared: Door) -> dict[str, Path]:
    """Head and base as `trt-action build` leaves them."""
    folders = {}
    for side, model in (("head", "model.onnx"), ("base", "base.onnx")):
        result = shared("build", model, "--base", "none", "--output", f"built-{side}")
        assert result.code == 0, result.err
        folders[side] = shared.cwd / f"built-{side}"
        assert result.out.strip().endswith(f"built-{side}")
    return folders


def reach(record: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        record = record[int(part)] if part.isdigit() else record[part]
    return record


def test_run_judges_and_writes(run: Result, shared: Door) -> None:
    record = evidence(shared.cwd / "out")
    assert run.code == {"passed": 0, "inconclusive": 0, "failed": 1}[record["outcome"]], run.err
    assert record["error"] is None
    assert files(shared.cwd / "out") == REPORT
    assert all(str(shared.cwd / "out" / name) in "".join(run.err.split("\n")) for name in REPORT)
    assert run.out == (shared.cwd / "out" / "comment.md").read_text() + "\n"
    assert record["accuracy"]["task"]["head"]["estimate"] >= 0.97
    assert [stage["name"] for stage in record["stages"]] == [
        "host", "model", "data", "build-head", "build-base", "compare", "measure", "layers", "accuracy"
    ]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_evidence_has_what_others_read(run: Result, shared: Door, key: str) -> None:
    value = reach(evidence(shared.cwd / "out"), key)
    assert value is not None
    assert value != ""


def test_evidence_follows_its_schema(run: Result, shared: Door) -> None:
    schema = json.loads(shared("schema", "evidence").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(evidence(shared.cwd / "out"), schema)


def test_a_second_run_takes_the_engines_from_the_cache(run: Result, shared: Door) -> None:
    again = shared("run", "--output", "again", "--max-seconds", "1s", "--json")
    record = json.loads(again.out)
    assert record == evidence(shared.cwd / "again")
    assert record["head"]["engine"]["from_cache"]
    assert record["base"]["engine"]["from_cache"]
    assert record["head"]["engine"]["sha256"] == evidence(shared.cwd / "out")["head"]["engine"]["sha256"]


def test_a_kept_engine_has_no_reference(shared: Door, built: dict[str, Path]) -> None:
    result = shared("accuracy", "built-head", "--base", "none", "--output", "kept-accuracy", "--json")
    assert result.code == 0
    assert "without its ONNX model" in json.loads(result.out)["accuracy"]["not_checked"]


def test_run_without_base(door: Door) -> None:
    result = door("run", "--base", "none", "--json")
    record = json.loads(result.out)
    assert result.code == 0
    assert record["base"] is None
    assert record["comparison"] is None
    assert {gate["name"]: gate["status"] for gate in record["gates"]}["max-latency-regression"] == "not-checked"
    assert record["base_note"]


def test_several_models_in_one_file(door: Door) -> None:
    config = yaml.safe_load((door.cwd / ".trt-action.yml").read_text())
    head, base = config.pop("model"), config.pop("base")
    config |= {"base": "none", "models": [{"name": "new one", "model": head}, {"name": "new-one", "model": base}]}
    del config["name"]
    (door.cwd / ".trt-action.yml").write_text(yaml.safe_dump(config))
    result = door("accuracy", "--output", "out")
    assert result.code == 0, result.err
    folders = {path.parent for path in (door.cwd / "out").glob("*/evidence.json")}
    assert files(door.cwd / "out") == {f"{one.name}/evidence.json" for one in folders} | (REPORT - {"evidence.json"})
    assert {evidence(one)["model"]["name"] for one in folders} == {"new one", "new-one"}
    assert result.out.count("<!-- trt-action") == 1
    assert "new one" in result.out
    assert "new-one" in result.out


def test_a_broken_model_among_several_fails_the_run(door: Door) -> None:
    (door.cwd / "broken.onnx").write_bytes(b"\xff" * 300)
    models = [{"model": "broken.onnx"}, {"model": "model.onnx"}]
    (door.cwd / ".trt-action.yml").write_text(yaml.safe_dump({"base": "none", "models": models}))
    result = door.refused(2, "accuracy", "--output", "out")
    assert evidence(door.cwd / "out" / "broken")["error"]["type"] == "ModelError"
    assert evidence(door.cwd / "out" / "model")["error"] is None
    assert "broken" in result.out


def test_compare_two_built_folders(shared: Door, built: dict[str, Path]) -> None:
    assert "engine.json" in files(built["head"])
    result = shared("compare", "built-head", "built-base", "--output", "kept", "--json", "--max-seconds", "2s")
    record = json.loads(result.out)
    assert record["error"] is None
    assert record["comparison"] is not None
    for side, folder in built.items():
        assert record[side]["engine"]["sha256"] == json.loads((folder / "engine.json").read_text())["engine"]["sha256"]


def test_a_tampered_engine_is_refused(door: Door) -> None:
    assert door("build", "--output", "built").code == 0
    (engine,) = (path for path in (door.cwd / "built").iterdir() if path.suffix in (".onnx", ".ort"))
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    result = door.refused(5, "compare", "built", "model.onnx")
    assert "bytes are not those that were recorded" in result.words


def test_compare_two_models(door: Door) -> None:
    result = door("compare", "model.onnx", "base.onnx", "--max-seconds", "1s", "--output", "out", "--json")
    record = json.loads(result.out)
    assert record["comparison"]["seconds"] < 10  # and not the default of 60
    assert record["head"]["latency"] is None
    assert record["accuracy"]["task"] is None
    assert result.code in (0, 1)


def test_compare_without_a_base(door: Door) -> None:
    (door.cwd / ".trt-action.yml").unlink()
    assert "needs HEAD and BASE" in door.refused(2, "compare", "model.onnx").words


def test_compare_from_evidence_gives_the_same_verdict(run: Result, shared: Door) -> None:
    result = shared("compare", "--from", "out/evidence.json", "--json")
    assert result.code == run.code
    then, now = evidence(shared.cwd / "out")["comparison"], json.loads(result.out)["comparison"]
    for key in ("verdict", "p50_ratio", "p99_ratio", "limit_status", "pairs"):
        assert now[key] == then[key]


def test_sides_that_take_different_inputs_are_compared_and_said(door: Door) -> None:
    base = onnx.load(door.cwd / "base.onnx")
    base.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(base, door.cwd / "base.onnx")
    result = door("compare", "model.onnx", "base.onnx", "--precision", "fp32", "--max-seconds", "4s")
    assert "- Head and base declare inputs differently, in type or shape: `image`." in result.out


def test_an_input_that_is_new_in_head_ends_no_comparison(door: Door) -> None:
    """Its `shapes` were written for head, its samples were read for head; a slip of the hand is found all the same."""
    head = onnx.load(door.cwd / "model.onnx")
    (data,) = head.graph.input
    for node in head.graph.node:
        node.input[:] = ["sized" if name == data.name else name for name in node.input]
    head.graph.node.insert(0, onnx.helper.make_node("Reshape", [data.name, "size"], ["sized"]))
    head.graph.input.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [4]))
    onnx.save(head, door.cwd / "model.onnx")
    sizes = [-1, *(dim.dim_value for dim in data.type.tensor_type.shape.dim[1:])]
    asked = ["accuracy", "--precision", "int8", "--base", "base.onnx", "--output", "out"]
    result = door(*asked, "--shapes", json.dumps({"size": {"values": sizes}}))
    assert result.code in (0, 1), result.err
    found = evidence(door.cwd / "out")
    assert found["model"]["shapes"]["size"]["values"]["opt"] == sizes
    assert found["base"]["engine"]["precision"] == "int8"
    assert "`shapes` names the input `sise`" in door(*asked, "--shapes", '{"sise": [4]}').words


def test_compare_from_evidence_takes_no_settings(run: Result, shared: Door) -> None:
    """The margin is that of the run: another one would be ignored."""
    result = shared.refused(2, "compare", "--from", "out/evidence.json", "--margin", "0.1%")
    assert "`margin` has no effect beside `--from`" in result.words


def test_compare_from_evidence_that_was_changed(run: Result, shared: Door) -> None:
    """Its gates and its outcome came from the verdict that is written there."""
    record = evidence(shared.cwd / "out")
    record["comparison"]["verdict"] = "improved" if record["comparison"]["verdict"] != "improved" else "regressed"
    (shared.cwd / "changed.json").write_text(json.dumps(record))
    assert "and its series say" in shared.refused(2, "compare", "--from", "changed.json").words


def test_compare_from_evidence_without_a_comparison(run: Result, shared: Door) -> None:
    record = evidence(shared.cwd / "out") | {"comparison": None}
    (shared.cwd / "alone.json").write_text(json.dumps(record))
    assert "holds no comparison" in shared.refused(2, "compare", "--from", "alone.json").words


def test_bench(door: Door) -> None:
    result = door("bench", "--output", "out", "--json")
    record = json.loads(result.out)
    assert result.code == 0, result.err
    head = record["head"]
    assert head["latency"]["p50_ms"] > 0
    assert head["throughput"]["samples_per_second"] > 0
    assert head["memory"]["host_peak_bytes"] > 10e6
    assert head["cold_start"]["load_ms"] > 0
    assert record["accuracy"]["task"] is None


def test_accuracy(door: Door) -> None:
    result = door("accuracy", "--output", "out", "--json")
    record = json.loads(result.out)
    assert result.code == 0, result.err
    assert record["accuracy"]["task"]["samples"] == 600
    assert record["head"]["latency"] is None


def test_long_paths_and_a_metric_of_ones_own(door: Door) -> None:
    """Names are recorded as the user wrote them, as far as the evidence has room."""
    folder = Path(*(["d" * 200] * 6))
    (door.cwd / folder).mkdir(parents=True)
    shutil.move(door.cwd / "model.onnx", door.cwd / folder / "model.onnx")
    (door.cwd / "score.py").write_text("def score(labels): return 0.5")
    result = door(
        "accuracy", folder / "model.onnx", "--base", "none", "--metric", "score.py:score", "--output", "o", "--json"
    )
    record = json.loads(result.out)
    assert record["error"] is None
    assert record["accuracy"]["task"]["metric"] == "score.py:score"
    assert record["head"]["label"] == str(folder / "model.onnx")[:1_000]


@pytest.mark.parametrize(
    ("form", "name"), [("comment", "comment.md"), ("summary", "summary.md"), ("html", "report.html")]
)
def test_render_makes_the_very_bytes_of_the_run(run: Result, shared: Door, form: str, name: str) -> None:
    assert shared("render", "out/evidence.json", "--format", form, "--output", f"again-{name}").code == 0
    assert (shared.cwd / f"again-{name}").read_bytes() == (shared.cwd / "out" / name).read_bytes()
    printed = shared("render", "out/evidence.json", "--format", form)
    assert printed.out == (shared.cwd / "out" / name).read_text() + "\n"


def test_doctor(shared: Door) -> None:
    result = shared("doctor", "--json")
    checks = json.loads(result.out)
    assert result.code == (1 if any(check["status"] == "red" for check in checks) else 0)
    assert {"python", "onnx", "onnxruntime"} <= {check["name"] for check in checks}
    assert all(check["fix"] for check in checks if check["status"] != "green")
    assert "onnxruntime" in shared("doctor").out


def test_config_schema(shared: Door) -> None:
    schema = json.loads(shared("schema", "config").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((shared.cwd / ".trt-action.yml").read_text()), schema)


def test_documents_are_those_that_the_code_generates() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert check.returncode == 0, f"run `make docs`\n{check.stdout}{check.stderr}"


def test_help_is_instant() -> None:
    """By what it imports; benchmarks/demo.py takes the time."""
    code = (
        "import sys, trt_action.cli as cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'numpy', 'pydantic', 'onnx', 'rich', 'yaml', 'jinja2', 'psutil'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "HEAVY []" in shown.stdout
    assert "--max-latency-regression" in shown.stdout


def test_version_and_help(shared: Door) -> None:
    assert re.fullmatch(r"trt-action \d+\.\d+\.\d+\S*\n", shared("--version").out)
    top = shared("--help")
    assert top.code == 0
    for command in ("run", "build", "bench", "accuracy", "compare", "render", "doctor", "schema"):
        assert command in top.out
        assert shared(command, "--help").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--presicion", "int8"], "Did you mean `--precision`?"),
        (["bench", "--output-dir=x"], "Did you mean `--output`?"),
        (["run", "--model", "x.onnx"], "`trt-action run MODEL`"),
        (["serve", "--porrt", "1"], "Did you mean `--port`?"),
        (["run", "--html"], "`trt-action run --help`"),
        (["rnu"], "Did you mean `run`?"),
        (["render", "x.json", "--format", "htlm"], "Did you mean `html`?"),
        (["run", "--precision", "int7"], "did you mean `int8`?"),
        (["run", "--frobnicate"], "lists what is allowed"),
    ],
)
def test_a_slip_of_the_hand_is_answered_with_the_nearest_name(shared: Door, arguments: list[str], words: str) -> None:
    assert words in shared.refused(2, *arguments).words


def test_a_reader_that_goes_away_is_no_failure_of_ours(shared: Door) -> None:
    with shared.start("schema", "config") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(("required", "code"), [("false", 0), ("true", 20)])
def test_mlflow_that_is_down_is_a_warning_or_an_error(door: Door, required: str, code: int) -> None:
    """The run and its results are there in either case."""
    server = ("--mlflow-tracking-uri", "http://127.0.0.1:9", "--mlflow-required", required)
    result = door("bench", "model.onnx", "--base", "none", "--measure-seconds", "0.2", *server)
    assert result.code == code, result.err
    assert "`http://127.0.0.1:9`" in result.words
    assert "no connection" in result.words
    assert ("(exit code 20)" in result.err) is (required == "true")
    assert evidence(door.cwd / "trt-action-report")["error"] is None
