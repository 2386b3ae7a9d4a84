"""`deploy-command`: the image in its environment, our secrets not, and an end with the time limit."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from tests.deploy.conftest import NEW
from trt_action.deploy import hook
from trt_action.errors import DeployError
from trt_action.publish.reference import Reference

IMAGE = Reference.parse(NEW)
ENV = {
    "PATH": os.environ["PATH"],
    "MINE": "kept",
    "INPUT_DEPLOY_TOKEN": "canary-1",
    "GITHUB_TOKEN": "canary-2",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "canary-3",
}


def run(command: str, folder: Path, timeout: float = 20.0) -> list[str]:
    said: list[str] = []
    hook.run(command, IMAGE, timeout=timeout, cwd=folder, env=ENV, say=said.append)
    return said


def test_what_it_gets(tmp_path: Path) -> None:
    said = run('echo "$IMAGE"; echo "$IMAGE_NAME $DIGEST $MINE"; pwd; env | grep -c canary || true', tmp_path)
    assert said == [NEW, f"{IMAGE.name} {IMAGE.digest} kept", str(tmp_path), "0"]


def test_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DeployError) as caught:
        run("echo one; printf 'two \\033[31m::error::x\\n' >&2; false | true; echo never", tmp_path)
    assert "exit code 1" in caught.value.what
    assert caught.value.why == "Its last lines: one | two  [31m: :error: :x"


def test_the_time_limit_ends_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"was ended after 0\.5 s"):
        run(f"sleep 300 & echo $! > {tmp_path}/pid; wait", tmp_path, timeout=0.5)
    pid = int((tmp_path / "pid").read_text())
    limit = time.monotonic() + 10  # a signal takes its time to be delivered
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan = psutil.Process(pid)
        while orphan.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < limit
            time.sleep(0.01)
