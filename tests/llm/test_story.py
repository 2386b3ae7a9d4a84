"""The whole run through the command line: against a real server, and against one that fails in every way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import llama
from tests.doubles.openai_server import KEY, OpenAI
from trt_action import cli, measure, report
from trt_action.errors import SettingsError
from trt_action.evidence import Evidence
from trt_action.settings import load

Run = Callable[..., tuple[int, Evidence]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`trt-action run` with an endpoint and small numbers; settings as keyword arguments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("Tell me about cats.\nAnd about rivers, please.\n")

    def once(command: str = "run", **settings: str) -> tuple[int, Evidence]:
        asked = {"backend": "openai-endpoint", "prompts": "prompts.txt", "max-output-tokens": "8", "requests": "8",
                 "concurrencies": "1,2", "max-seconds": "2", "request-timeout": "2s", "output": "out"}  # fmt: skip
        asked |= {name.replace("_", "-"): value for name, value in settings.items()}
        code = cli.main([command, *(f"--{name}={value}" for name, value in asked.items() if value)])
        return code, report.read_evidence(tmp_path / "out" / "evidence.json")

    return once


def test_a_real_server_is_measured_compared_and_judged(
    run: Run, llama_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [
        {"prompt": "Say something.", "expected": ".", "kind": "regex"},
        {"prompt": "Say the word.", "expected": "~no such text~", "kind": "contains"},
        {"prompt": "A letter?", "expected": "a", "kind": "choice", "choices": ["a", "b"]},
    ]
    (tmp_path / "quality.jsonl").write_text("\n".join(json.dumps(one) for one in questions))
    code, found = run(
        endpoint=llama_url, base_endpoint=llama_url, quality="quality.jsonl", max_seconds="10", requests="40",
        latency_threshold="ttft p50 < 10s; itl p50 < 1us at 1; e2e max < 60s", min_throughput="1tok/s", min_accuracy="30%",
    )  # fmt: skip
    assert code == 1
    assert found.error is None
    assert found.llm is not None
    assert found.llm.base is not None
    for side in (found.llm.head, found.llm.base):
        assert [level.concurrency for level in side.levels] == [1, 2]
        assert [level.requests for level in side.levels] == [40, 40]
        assert all(level.output_tokens == 320 and not level.failed for level in side.levels)
        assert side.levels[0].ttft is not None
        assert side.levels[0].ttft.intervals["p50"] is not None
        assert side.tokens_from == "usage"
        assert side.ended_early == 0.0
        assert side.output_lengths is not None
        assert (side.output_lengths.min, side.output_lengths.max) == (8, 8)
    assert found.comparison is not None
    assert (found.comparison.of, found.comparison.verdict != "regressed") == ("requests", True)
    if found.comparison.p50_ratio is not None:  # a very busy host makes too few pairs for an interval
        assert "ttft" in found.comparison.witnesses
        assert found.comparison.noise_floor is not None
    assert measure.recompute(found.comparison).model_dump() == found.comparison.model_dump()
    statuses = {gate.rule: gate.status for gate in found.gates}
    assert statuses["ttft p50 < 10000 ms at 2"] == "passed"
    assert statuses["itl p50 < 0.001 ms at 1"] == "failed"
    assert statuses["e2e max < 60000 ms at 2"] == "passed"
    assert statuses["every request is answered"] == "passed"
    assert statuses["throughput ≥ 1tok/s"] == "passed"
    assert found.accuracy.task is not None
    assert found.llm.same_answers == 1.0
    assert found.llm.head.quality["regex"].right == 1
    assert found.llm.head.quality["contains"].right == 0
    shown = capsys.readouterr().out
    assert "2 in flight" in shown
    assert "Served model in detail" in shown
    assert report.comment([found])
    assert "between texts" in report.html([found])


def test_a_model_with_more_layers_is_regressed(run: Run, tiny_model: Path, llama_url: str, tmp_path: Path) -> None:
    slower = llama.make(tmp_path / "slower.gguf", layers=40, width=64)
    with llama.serve(slower) as url:
        code, found = run(
            "compare",
            endpoint=url,
            base_endpoint=llama_url,
            max_output_tokens="32",
            max_seconds="60",
            ignore_eos="true",
            request_timeout="60s",
        )
    assert found.comparison is not None
    assert (found.comparison.verdict, code) == ("regressed", 1), found.comparison.reason
    assert found.comparison.p50_ratio is not None
    assert found.comparison.p50_ratio.low > 1.3


BROKEN = {
    "401": (19, "TRT_ACTION_ENDPOINT_KEY"),
    "503": (19, "server's log"),
    "hang": (19, "request-timeout"),
    "cut": (19, "ended the answer"),
    "no-json": (19, "OpenAI-compatible server"),
    "no-stream": (19, "OpenAI-compatible server"),
    "302": (19, "final URL"),
    "429": (19, "concurrencies"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_server_that_does_not_work_ends_the_run_with_one_message(
    run: Run, openai: OpenAI, fault: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRT_ACTION_ENDPOINT_KEY", KEY)
    openai.key, openai.always = KEY, fault
    code, found = run(endpoint=openai.url)
    exit_code, fix = BROKEN[fault]
    assert code == exit_code
    assert found.error is not None
    assert (found.error.type, found.error.stage, found.outcome) == ("EndpointError", "contact", "failed")
    assert found.error.what.startswith("head: ")
    assert fix in found.error.fix
    said = capsys.readouterr()
    assert KEY not in said.out + said.err + found.model_dump_json()
    assert "Traceback" not in said.err


def test_a_wrong_model_name_is_told_with_the_right_ones(run: Run, openai: OpenAI) -> None:
    openai.models = ("llama-small", "llama-large")
    code, found = run(endpoint=openai.url, endpoint_model="llama")
    assert code == 19
    assert found.error is not None
    assert "`llama-small`, `llama-large`" in found.error.why
    code, found = run(endpoint=openai.url)
    assert found.error is not None
    assert "`endpoint-model` must say which one" in found.error.what


def test_requests_that_fail_are_counted_and_break_a_gate(run: Run, openai: OpenAI) -> None:
    """The first contact and the warm-up are answered; of the timed requests five are not."""
    openai.faults = [""] * 8 + ["503", "cut", "429:0", "no-json", "error"]
    code, found = run("bench", endpoint=openai.url, concurrencies="1", requests="40")
    assert code == 1
    assert found.llm is not None
    level = found.llm.head.levels[0]
    assert level.failed == {"server-error": 2, "cut": 1, "rate-limited": 1, "malformed": 1}
    assert level.requests == 35
    gate = next(gate for gate in found.gates if gate.name == "failed-requests")
    assert (gate.status, gate.observed) == ("failed", "5 of 40")
    assert any("2 of 40 requests failed (server-error)" in note for note in found.llm.head.notes)


def test_what_a_reviewer_reads(run: Run, openai: OpenAI) -> None:
    """Each limit beside the time that it is about, with its statistic; settings that have a meaning."""
    _, found = run(
        "bench",
        endpoint=openai.url,
        requests="20",
        latency_threshold="ttft p50 < 10s; itl p50 < 10s at 1; itl p99 < 1s; e2e p99 < 1s",
    )
    comment = report.comment([found])
    rows = {line.split(" | ")[0]: line for line in comment.splitlines() if line.startswith("| ")}
    assert "p50 < 10000 ms |" in rows["| first text, p50 / p99 (2 in flight)"]
    assert "p50 < 10000 ms |" in rows["| between texts, p50 / p99 (1 in flight)"]
    assert "p99 < 1000 ms |" in rows["| between texts, p50 / p99 (2 in flight)"]
    assert "| per output token, p50 / p99 (1 in flight)" in rows
    assert {"| `concurrencies`", "| `prompts`", "| `latency-threshold`"} <= set(rows)
    assert "| `cuda-graph`" not in rows
    assert [gate.reason.split()[-1] for gate in found.gates if gate.status == "inconclusive"] == ["72`.", "368`."]
    _, found = run("bench", endpoint=openai.url, requests="20")
    assert "between texts, p50" not in report.comment([found])


def test_a_side_that_dies_while_it_is_compared_leaves_no_verdict(run: Run, openai: OpenAI) -> None:
    openai.seconds_per_token = 0.005  # four answers per block at most, on any host
    openai.faults = [""] * 90
    openai.always = "500"
    _, found = run("compare", endpoint=openai.url, base_endpoint=openai.url, max_seconds="120", request_timeout="20s")
    assert found.comparison is not None
    assert found.comparison.verdict == "inconclusive"
    assert "answered 500" in found.comparison.reason


def test_without_counts_and_with_answers_that_end_early_it_is_said(run: Run, openai: OpenAI) -> None:
    openai.usage, openai.eos_after = False, 3
    _, found = run(endpoint=openai.url, base_endpoint=openai.url, max_seconds="4")
    assert found.llm is not None
    assert (found.llm.head.tokens_from, found.llm.head.ended_early) == ("chunks", 1.0)
    assert found.comparison is not None
    assert any("ignore-eos" in warning for warning in found.comparison.warnings)
    _, found = run("bench", endpoint=openai.url, ignore_eos="true")
    assert found.llm is not None
    assert found.llm.head.ended_early == 0.0


def test_two_sides_with_two_keys(run: Run, openai: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    openai.key = KEY
    monkeypatch.setenv("TRT_ACTION_ENDPOINT_KEY", KEY)
    code, found = run("compare", endpoint=openai.url, base_endpoint=openai.url)
    assert code == 19
    assert found.error is not None
    assert found.error.what.startswith("base: ")
    assert KEY not in found.model_dump_json()


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        ("bench", {"prompts": "", "quality": "quality.jsonl"}, "no prompts to time"),
        (
            "compare",
            {"prompts": "", "quality": "quality.jsonl", "base_endpoint": "http://host/v1"},
            "no prompts to time",
        ),
        ("accuracy", {}, "no questions"),
    ],
)
def test_a_command_with_nothing_to_do_is_refused(
    run: Run, openai: OpenAI, tmp_path: Path, command: str, settings: dict[str, str], words: str
) -> None:
    (tmp_path / "quality.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    code, found = run(command, endpoint=openai.url, **settings)
    assert code == 2
    assert found.error is not None
    assert words in found.error.what
    code, found = run("bench", endpoint=openai.url, quality="quality.jsonl")
    assert (code, found.accuracy.not_checked) == (0, "This command asks no questions.")


@pytest.mark.parametrize("key", ["sk-canary\nx", "“sk-canary”", "Bearer sk-canary", "sk-canary\udcff"])
def test_a_key_that_cannot_be_one_is_told_without_it(
    run: Run, openai: OpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("TRT_ACTION_ENDPOINT_KEY", key)
    code, found = run("bench", endpoint=openai.url)
    assert code == 2
    assert found.error is not None
    assert "`TRT_ACTION_ENDPOINT_KEY`" in found.error.what
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err + found.model_dump_json()
    assert not openai.requests


WRONG: dict[str, dict[str, str]] = {
    "no endpoint is named": {"endpoint": ""},
    "Both `endpoint` and `endpoint-image`": {"endpoint_image": "vllm"},
    "names a model": {"base": "main"},
    "nothing to ask": {"prompts": ""},
    "are not measured": {"latency_threshold": "ttft p99 < 1s at 3"},
    "requests or tokens": {"min_throughput": "10/s"},
    "is about an endpoint": {"backend": "onnxruntime", "model": "m.onnx", "latency_threshold": "itl p50 < 1ms"},
    "counts tokens": {"backend": "onnxruntime", "model": "m.onnx", "min_throughput": "10tok/s"},
    "which needs a `model`": {"backend": "onnxruntime"},
    "holds a user, a query": {"endpoint": "http://me:hunter2@host/v1"},
    "holds a user": {"endpoint": "http://host/v1?key=hunter2"},
    "no URL of http": {"endpoint": "ftp://host/v1"},
    "cannot be split": {"endpoint_args": "--name 'x"},
    "is no list of whole numbers": {"concurrencies": "1,2,x,,y"},
}


@pytest.mark.parametrize("words", WRONG)
def test_settings_that_make_no_sense_are_refused(words: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"backend": "openai-endpoint", "endpoint": "http://host/v1", "prompts": "p.txt"}
    given |= {name.replace("_", "-"): value for name, value in WRONG[words].items()}
    with pytest.raises(SettingsError) as error:
        load(given, {}, tmp_path)
    if words == "is no list of whole numbers":
        words = "whole number"
    assert words in error.value.what
    assert "hunter2" not in error.value.what + error.value.why + error.value.fix


def test_an_endpoint_is_neither_built_nor_kept_nor_published(run: Run, openai: OpenAI, tmp_path: Path) -> None:
    code, found = run("build", endpoint=openai.url)
    assert code == 2
    assert found.error is not None
    assert "is not built" in found.error.what
    argv = ["run", "--backend=openai-endpoint", f"--endpoint={openai.url}", "--prompts=prompts.txt", "--keep=kept"]
    assert cli.main(argv) == 2
    assert not (tmp_path / "kept").exists()


def test_a_config_may_hold_models_and_endpoints(tmp_path: Path) -> None:
    (tmp_path / ".trt-action.yml").write_text(
        "max-seconds: 5\n"
        "models:\n"
        "  - {model: a.onnx}\n"
        "  - {name: chat, backend: openai-endpoint, endpoint: 'http://host:8000/v1/', prompts: p.jsonl}\n"
    )
    model, served = load({}, {"TRT_ACTION_ENDPOINT_KEY": KEY}, tmp_path)
    assert (model.display_name, served.display_name) == ("a", "chat")
    assert served.endpoint == "http://host:8000/v1"
    assert served.prompts == tmp_path / "p.jsonl"
    assert KEY not in repr(served) + json.dumps(served.effective())
    assert load({"model": "a.onnx"}, {}, tmp_path)[0].display_name == "a"


def test_a_run_that_is_stopped_does_not_wait_for_a_server_that_hangs(openai: OpenAI, tmp_path: Path) -> None:
    """With 16 requests in flight that nobody answers: the signal ends the run in seconds, with the evidence so far."""
    (tmp_path / "p.txt").write_text("hello\n")
    openai.faults = [""] * 10
    openai.always = "hang"
    arguments = [
        "bench",
        "--backend=openai-endpoint",
        f"--endpoint={openai.url}",
        "--prompts=p.txt",
        "--concurrencies=16",
    ]
    command = [sys.executable, "-m", "trt_action", *arguments, "--output=out"]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"in flight" in line:
                break
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(30) == 130
    found = report.read_evidence(tmp_path / "out" / "evidence.json")
    assert found.error is not None
    assert (found.error.type, found.error.stage) == ("InterruptedRunError", "measure")
