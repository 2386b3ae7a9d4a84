"""Mutated models, evidence and config files: an answer or an error in words, never a traceback, nothing left behind.

`TRT_ACTION_FUZZ` is the number of mutated models (40; CI sets thousands) and evidence files; one in a hundred also goes
through the real door. `TRT_ACTION_FUZZ_SEED` repeats a failure: every message names the seed of its mutation.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tests.cli.conftest import Door, Result, evidence, files
from tests.cli.mutations import bytes_damaged, json_damaged, model_damaged
from trt_action import measure, report
from trt_action.errors import TrtActionError

COUNT = int(os.environ.get("TRT_ACTION_FUZZ", "40"))
FIRST = int(os.environ.get("TRT_ACTION_FUZZ_SEED", "0"))
SEEDS = range(FIRST, FIRST + COUNT)
THROUGH_THE_DOOR = range(FIRST, FIRST + max(COUNT // 100, 4))
HANGS = 60.0
"""Seconds for one model; the door's own limit is twice that."""

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(1200)]


class Examiner:
    """A child that examines many models; started again when a model has killed it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fuzz_examine.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ask(self, path: Path) -> dict[str, Any] | str:
        """The answer, or the last words of a child that died or hung."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"path": str(path)}).encode() + b"\n")
        self.process.stdin.flush()
        answers = select.select([self.process.stdout], [], [], HANGS)[0]
        line = self.process.stdout.readline() if answers else b""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        self.process.kill()
        words = self.process.communicate()[1].decode("utf-8", "replace")[-2000:]
        died = f"exit code {self.process.returncode}" if answers else f"no answer in {HANGS:g} s"
        self.start()
        return f"{died}: {words}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def answers(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any] | str]:
    """What the examination says of each mutated model, by seed."""
    folder = tmp_path_factory.mktemp("models")
    content = (digits / "base.onnx").read_bytes()
    found = {}
    with Examiner() as examiner:
        for seed in SEEDS:
            (folder / "fuzz.onnx").write_bytes(model_damaged(np.random.default_rng(seed), content))
            found[seed] = examiner.ask(folder / "fuzz.onnx")
            assert files(folder) == {"fuzz.onnx"}, f"TRT_ACTION_FUZZ_SEED={seed}"
    return found


def test_models(answers: dict[int, dict[str, Any] | str]) -> None:
    seen: Counter[str] = Counter()
    for seed, answer in answers.items():
        note = f"TRT_ACTION_FUZZ_SEED={seed}: {answer}"
        if isinstance(answer, str):  # a crash of native code is a message at the door; ours or a hang is a bug
            assert "Traceback" not in answer, note
            assert "no answer" not in answer, note
        elif "type" in answer:
            assert answer["type"] == "ModelError", note
            assert answer["what"].isprintable(), note
            assert len(answer["what"]) < 1000, note
        seen["died" if isinstance(answer, str) else answer.get("type", "accepted")] += 1
    print(dict(seen))
    assert seen["ModelError"] > COUNT // 4, seen
    assert seen["died"] <= COUNT // 100 + 1, seen


def test_models_that_look_sound_through_the_door(
    answers: dict[int, dict[str, Any] | str], digits: Path, door: Door
) -> None:
    """The others end with the words of `test_models`; these reach the precision room, ONNX Runtime and accuracy."""
    accepted = [seed for seed, answer in answers.items() if isinstance(answer, dict) and "notes" in answer]
    codes: Counter[int] = Counter()
    for seed in accepted[: len(THROUGH_THE_DOOR)]:
        content = model_damaged(np.random.default_rng(seed), (digits / "base.onnx").read_bytes())
        (door.cwd / "model.onnx").write_bytes(content)
        precision = ("fp32", "int8", "fp16")[seed % 3]
        result = door("accuracy", "--precision", precision, "--base", "none", "--cache", "false", "--output", "out")
        note = f"TRT_ACTION_FUZZ_SEED={seed} {precision}: {result.err}"
        assert result.code in (0, 1, 2, 4, 5, 6, 9), note
        assert "Internal error" not in result.err, note
        assert (evidence(door.cwd / "out")["error"] is None) == (result.code in (0, 1)), note
        codes[result.code] += 1
    print(dict(codes))
    assert codes


@pytest.mark.parametrize("seed", THROUGH_THE_DOOR)
def test_configs_through_the_door(door: Door, seed: int) -> None:
    """The settings' own fuzz test makes thousands; a config that survives runs, so the model is not there."""
    config = door.cwd / ".trt-action.yml"
    config.write_bytes(bytes_damaged(np.random.default_rng(seed), config.read_bytes()))
    (door.cwd / "model.onnx").unlink()
    result = door("build", "--base", "none")
    assert result.code == 2, f"TRT_ACTION_FUZZ_SEED={seed}: {result.err}"


def test_evidence(run: Result, shared: Door, tmp_path: Path) -> None:
    recorded = evidence(shared.cwd / "out")
    path = tmp_path / "evidence.json"
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        path.write_text(json.dumps(json_damaged(np.random.default_rng(seed), recorded)))
        seen[_rendered(path, seed)] += 1
    print(dict(seen))
    assert seen["EvidenceError"] > COUNT // 10
    assert seen["rendered"] + seen["recomputed"] > 0
    assert not any("not printable" in key for key in seen), seen


def _rendered(path: Path, seed: int) -> str:
    try:
        found = report.read_evidence(path)
        for make in (report.comment, report.summary, report.html):
            assert make([found])
        if found.comparison is None:
            return "rendered"
        measure.recompute(found.comparison)
    except TrtActionError as error:
        return type(error).__name__ if error.what.isprintable() else f"not printable: {error.what!r}"
    except Exception:  # noqa: BLE001 - the point of the test
        pytest.fail(f"TRT_ACTION_FUZZ_SEED={seed}\n{traceback.format_exc()}")
    return "recomputed"
