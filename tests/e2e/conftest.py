"""The action's image, built once, and a runner with a checkout of two commits to run it in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.github.server import GitHub, Identity, serve
from tests.doubles.runner import Runner, Running, Step
from trt_action.container import CACHE_VOLUME

ROOT = Path(__file__).parents[2]
IMAGE = "trt-action:e2e"
REPOSITORY = "acme/models"
TOKEN = "ghs_canary0123456789abcdefABCDEF0123456789"  # noqa: S105 - the double's own
OWNER = 1000
CONFIG = """\
name: digits
model: models/digits.onnx
batch-size: 8
precision: int8
calibration-data: data/calibration.npz
validation-data: data/validation.npz
max-latency-regression: 50%
max-accuracy-drop: 5%
max-seconds: 10s
measure-seconds: 0.2s
"""


def docker(*arguments: str, timeout: float = 120) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def action_image() -> Iterator[str]:
    """The image of this work tree. The cache volume of a sibling is gone afterwards, unless it was there before."""
    image = built("onnxruntime", IMAGE)
    had_cache = CACHE_VOLUME in docker("volume", "ls", "--quiet").split()
    yield image
    if not had_cache:
        docker("volume", "rm", "--force", CACHE_VOLUME)


@pytest.fixture(scope="session")
def rtx_image() -> str:
    """The same with TensorRT for RTX: what it shares with the first is not built again."""
    return built("tensorrt-rtx", f"{IMAGE}-tensorrt-rtx")


def built(variant: str, tag: str) -> str:
    """The id of the image: another session of this host may move the tag meanwhile. From the stand-in base where the
    real one cannot be pulled."""
    try:
        docker("info", timeout=30)
    except (AssertionError, FileNotFoundError, subprocess.TimeoutExpired):
        pytest.skip("no Docker engine answers `docker info`")
    base = os.environ.get("TRT_ACTION_BASE_IMAGE") or stand_in()
    arguments = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"VARIANT={variant}", "--tag", tag)
    return docker("build", "--quiet", *arguments, str(ROOT), timeout=1_500)


def stand_in() -> str:
    """The name of a base image that is on this host, where the real one cannot be pulled."""
    script = ROOT / "tests/e2e/stand_in_base.sh"
    done = subprocess.run([script], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Checkout:
    """A runner whose workspace holds the merge commit of pull request 7, as actions/checkout leaves it."""

    runner: Runner
    github: GitHub
    base: str
    head: str
    merge: str

    def payload(self, action: str = "synchronize", head_repository: str = REPOSITORY) -> dict[str, Any]:
        return {
            "action": action,
            "number": 7,
            "repository": {"full_name": REPOSITORY, "default_branch": "main"},
            "pull_request": {
                "number": 7,
                "head": {"sha": self.head, "ref": "feature", "repo": {"full_name": head_repository}},
                "base": {"sha": self.base, "ref": "main", "repo": {"full_name": REPOSITORY}},
            },
        }

    def start(self, **changes: Any) -> Running:
        arguments: dict[str, Any] = {
            "with_": {},
            "event": "pull_request",
            "payload": self.payload(),
            "sha": self.merge,
            "token": TOKEN,
            "api_url": self.github.url,
        }
        return self.runner.start(**(arguments | changes))

    def step(self, **changes: Any) -> Step:
        return self.start(**changes).result()

    @property
    def report(self) -> Path:
        return self.runner.workspace / "trt-action-report"


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    """GitHub on loopback. Every request must fit GitHub's own description."""
    with serve() as double:
        double.tokens[TOKEN] = Identity()
        yield double
        assert double.violations == []


MakeCheckout = Callable[..., Checkout]


@pytest.fixture(scope="module")
def make_checkout(
    action_image: str, github: GitHub, tmp_path_factory: pytest.TempPathFactory, digits: Path
) -> MakeCheckout:
    """A fresh runner and checkout: main holds the base model, the pull request the head model."""

    def make(config: str = CONFIG, image: str = "") -> Checkout:
        runner = Runner(tmp_path_factory.mktemp("runner"), image or action_image, ROOT / "action.yml", REPOSITORY)
        top = runner.workspace
        git(top, "init", "--quiet", "--initial-branch", "main")
        (top / "data").mkdir()
        for name in ("calibration.npz", "validation.npz"):
            shutil.copy(digits / name, top / "data" / name)
        base = _commit(top, digits / "base.onnx", config, "base")
        git(top, "switch", "--quiet", "--create", "feature")
        head = _commit(top, digits / "model.onnx", config, "head")
        git(top, "switch", "--quiet", "--detach", "main")
        git(top, "merge", "--quiet", "--no-ff", "-m", "merge", "feature")
        for folder, folders, files in os.walk(runner.work):
            for name in (".", *folders, *files):
                os.chown(Path(folder, name), OWNER, OWNER, follow_symlinks=False)
        github.comments.clear()
        github.pulls.clear()
        github.tokens[TOKEN] = Identity()
        github.add_pull(REPOSITORY, 7, head)
        return Checkout(runner, github, base, head, git(top, "rev-parse", "HEAD"))

    return make


@pytest.fixture
def checkout(make_checkout: MakeCheckout) -> Checkout:
    return make_checkout()


def git(top: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", f"safe.directory={top}"]
    done = subprocess.run(["git", *identity, *arguments], cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _commit(top: Path, model: Path, config: str, message: str) -> str:
    (top / "models").mkdir(exist_ok=True)
    shutil.copy(model, top / "models" / "digits.onnx")
    (top / ".trt-action.yml").write_text(config)
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "-m", message)
    return git(top, "rev-parse", "HEAD")
