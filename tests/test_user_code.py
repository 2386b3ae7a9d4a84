from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_action import arrays, user_code
from trt_action.errors import MetricError

SOURCE = """
import os, sys, signal, time
import numpy as np
import neighbour

def accuracy(outputs, labels):
    return float((outputs['a/b'].argmax(1) == labels).mean())

def everything(**given):
    return {'names': ','.join(sorted(given)), 'n': len(given)}

def per_sample(labels, factor=2):
    return {'value': labels * factor, 'higher_is_better': False}

def batches():
    for i in range(1000):
        yield {'x': np.full((4, 2), i, np.float32), 'labels': [i] * 4}

def endless():
    while True:
        yield {'x': np.zeros((1, 1))}

def ragged():
    yield {'x': np.zeros((1, 2))}
    yield {'x': np.zeros((1, 3))}

def renamed():
    yield {'x': np.zeros((1, 2))}
    yield {'y': np.zeros((1, 2))}

def tuples():
    yield (1, 2)

def cwd():
    return os.getcwd()

def noisy():
    print('::error::hello')
    print('{"error": 1}', file=sys.stderr)
    return neighbour.NUMBER

def needs(images):
    return 1

def broken():
    return 1 / 0

def quits():
    sys.exit(0)

def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)

def sleeps():
    time.sleep(60)

def nothing():
    pass

def objects():
    return [[1], [1, 2]]

def nan():
    return float('nan')
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("NUMBER = 7")
    return tmp_path


def call(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    return user_code.call(f"mine.py:{name}", **{"arguments": {}, "timeout": 30, "base_dir": folder, **more})


def test_arrays_in_and_a_number_out(folder: Path) -> None:
    given = folder / "in.npz"
    arrays.save_npz(given, {"outputs/a/b": np.eye(4), "labels": np.array([0, 1, 2, 0])})
    assert call(folder, "accuracy", arrays=given) == {"values": {"value": 0.75}, "arrays": []}
    answer = call(folder, "everything", arrays=given, arguments={"seed": 3})
    assert answer["values"] == {"names": "labels,outputs,seed", "n": 3}


def test_arrays_out(folder: Path) -> None:
    given, out = folder / "in.npz", folder / "out.npz"
    arrays.save_npz(given, {"labels": np.array([1, 2])})
    answer = call(folder, "per_sample", arrays=given, out=out)
    assert answer == {"values": {"higher_is_better": False}, "arrays": ["value"]}
    assert arrays.load_npz(out)["value"].tolist() == [2, 4]


def test_generator_is_joined_and_stops_at_the_limit(folder: Path) -> None:
    out = folder / "out.npz"
    call(folder, "batches", out=out, limit=6)
    assert arrays.load_npz(out)["labels"].tolist() == [0, 0, 0, 0, 1, 1]
    call(folder, "endless", out=out, limit=100)
    assert arrays.load_npz(out)["x"].shape == (100, 1)


def test_runs_in_the_base_folder_and_may_print(folder: Path) -> None:
    assert call(folder, "cwd")["values"]["value"] == str(folder)
    assert call(folder, "noisy")["values"]["value"] == 7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brokn", "Did you mean `broken`"),
        ("needs", "asks for `images`"),
        ("broken", "ZeroDivisionError at line"),
        ("quits", "raised SystemExit"),
        ("crashes", "SIGSEGV"),
        ("nothing", "nothing (None)"),
        ("objects", "a `list` for `value`"),
        ("nan", "returned nan"),
        ("ragged", "Batch 1 of"),
        ("renamed", "has the names `y`"),
        ("tuples", "not a dict of arrays"),
    ],
)
def test_failures_are_named(folder: Path, name: str, words: str) -> None:
    with pytest.raises(MetricError) as caught:
        call(folder, name)
    assert words in f"{caught.value.what} {caught.value.why} {caught.value.fix}"


@pytest.mark.parametrize(
    "spec", ["mine", "mine.py", "mine.py:", "mine.py:a b", "mine.txt:f", "mine.py:f()", "", "\0.py:f"]
)
def test_what_is_not_a_function(folder: Path, spec: str) -> None:
    with pytest.raises(MetricError):
        user_code.call(spec, arguments={}, timeout=5, base_dir=folder)


def test_files_that_are_not_there_or_not_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe.py")
    (folder / "folder.py").mkdir()
    (folder / "syntax.py").write_text("def f(:\n")
    for spec, words in {
        "min.py:f": "`mine.py`",
        "pipe.py:f": "a pipe",
        "folder.py:f": "a folder",
        "syntax.py:f": "SyntaxError at line 1",
    }.items():
        with pytest.raises(MetricError) as caught:
            user_code.call(spec, arguments={}, timeout=5, base_dir=folder)
        assert words in f"{caught.value.what} {caught.value.why}"


def test_time_limit(folder: Path) -> None:
    start = time.monotonic()
    with pytest.raises(MetricError, match=r"did not finish within 1\.5 s"):
        call(folder, "sleeps", timeout=1.5)
    assert time.monotonic() - start < 10
