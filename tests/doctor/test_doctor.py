"""`trt-action doctor` on this very host, and that no host breaks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_action.doctor import Asked, Check, checks, host
from trt_action.doctor.line import guarded
from trt_action.engine import devices
from trt_action.errors import ModelError, TrtActionError

NO_GPU = pytest.mark.skipif(devices.visible(), reason="this host has a GPU")


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "new" / "out", tmp_path / "cache", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_a_next_step_for_everything_that_is_not_green(asked: Asked, tmp_path: Path) -> None:
    told: list[Check] = []
    every = checks(asked, told.append)
    assert told == every
    found = by_name(every)
    assert {"python", "onnx", "onnxruntime", "cpus", "memory", "output folder", "engine cache", "git"} <= found.keys()
    assert {"gpu", "modelopt", "docker", "github token", "registry"} <= {name.split(" 0")[0] for name in found}
    for check in found.values():
        assert bool(check.fix) == (check.status != "green"), check
    assert found["onnxruntime"].status == "green"
    assert found["output folder"].status != "red"
    assert not (tmp_path / "new").exists()


@NO_GPU
@pytest.mark.parametrize(
    ("backend", "device", "red"),
    [
        (None, "auto", set()),
        ("onnxruntime", "cpu", set()),
        ("onnxruntime", "cuda", {"gpu", "onnxruntime cuda", "docker nvidia runtime"}),
        ("tensorrt", "auto", {"gpu", "tensorrt", "docker nvidia runtime"}),
        ("tensorrt-rtx", "auto", {"gpu", "docker nvidia runtime"}),
    ],
)
def test_no_gpu_is_red_only_for_who_needs_one(asked: Asked, backend: Any, device: str, red: set[str]) -> None:
    from dataclasses import replace

    found = by_name(checks(replace(asked, backend=backend, device=device)))
    if found["docker"].status != "green":
        red = red - {"docker nvidia runtime"}
    assert {name for name, check in found.items() if check.status == "red"} == red
    assert "no GPU" in found["gpu"].found or "no driver" in found["gpu"].found


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = by_name(list(host.lines(tmp_path / "file" / "out", tmp_path / "file")))
    assert found["output folder"].status == "red"
    assert found["engine cache"].status == "amber"
    found = by_name(list(host.lines(Path("/proc/out"), None)))
    assert found["output folder"].status == "red"
    assert found["engine cache"].found.startswith("off")
    assert "TRT_ACTION_CACHE" in found["engine cache"].fix


@pytest.mark.parametrize("error", [ModelError("It is bad."), ValueError("secret"), OSError(5, "no"), KeyError("k")])
def test_a_look_that_fails_is_a_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def look() -> Iterator[Check]:
        yield Check("first", "green", "seen")
        raise error

    (line,) = guarded("thing", look)
    assert (line.name, line.status) == ("thing", "amber")
    assert line.fix
    assert "secret" not in line.found
    assert len(list(tmp_path.glob("trt-action-*.log"))) == (not isinstance(error, TrtActionError))


def test_what_is_shared_holds_no_folder_of_the_person(asked: Asked, tmp_path: Path) -> None:
    shared = json.dumps([check.shareable(str(tmp_path)) for check in checks(asked)])
    assert str(tmp_path) not in shared
    assert sys.executable not in shared
    assert "~/.local/share" in shared or "modelopt" not in shared


def test_a_host_without_anything() -> None:
    """No PATH, no home, no Docker, no libraries of publishing: every line is still there."""
    code = (
        "import sys\n"
        "for name in ('docker', 'requests', 'pynvml', 'cryptography'): sys.modules[name] = None\n"
        "import trt_action.cli as cli\n"
        "sys.exit(cli.main(['doctor', '--json', '--registry', 'ghcr.io', '--output', '/proc/x']))"
    )
    env = {"GITHUB_TOKEN": "ghs_canary0123", "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    found = {check["name"]: check["status"] for check in json.loads(done.stdout)}
    assert done.returncode == 1  # the output folder
    assert found["output folder"] == "red"
    assert found["docker"] == found["github token"] == found["registry"] == found["git"] == "amber"
    assert "ghs_canary" not in done.stdout + done.stderr
