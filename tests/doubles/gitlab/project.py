"""A project with a default branch and a merge request, and the variables of its pipelines."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
JOB_TOKEN = "glcbt-canary0123456789abcdef"  # noqa: S105 - the double's own


@dataclass
class Project:
    """`main` holds base and then head, as after the merge; `feature` is the merge request's branch, from base on."""

    top: Path
    base: str
    feature: str
    main: str
    api_url: str = "http://127.0.0.1:9/api/v4"
    registry: str = "127.0.0.1:9"

    def common(self, source: str, sha: str) -> dict[str, str]:
        return {
            "CI": "true",
            "GITLAB_CI": "true",
            "CI_SERVER_URL": "https://gitlab.example",
            "CI_API_V4_URL": self.api_url,
            "CI_PROJECT_ID": "42",
            "CI_PROJECT_PATH": "acme/models",
            "CI_PROJECT_URL": "https://gitlab.example/acme/models",
            "CI_DEFAULT_BRANCH": "main",
            "CI_PIPELINE_ID": "1000",
            "CI_PIPELINE_URL": "https://gitlab.example/acme/models/-/pipelines/1000",
            "CI_PIPELINE_CREATED_AT": "2026-01-02T03:04:05Z",
            "CI_PIPELINE_SOURCE": source,
            "CI_JOB_ID": "5000",
            "CI_JOB_URL": "https://gitlab.example/acme/models/-/jobs/5000",
            "CI_JOB_TOKEN": JOB_TOKEN,
            "CI_REGISTRY": self.registry,
            "CI_REGISTRY_IMAGE": f"{self.registry}/acme/models",
            "CI_REPOSITORY_URL": f"https://gitlab-ci-token:{JOB_TOKEN}@gitlab.example/acme/models.git",
            "CI_COMMIT_SHA": sha,
        }

    def merge_request(self, **changes: str) -> dict[str, str]:
        return {
            **self.common("merge_request_event", self.feature),
            "CI_COMMIT_REF_NAME": "feature",
            "CI_MERGE_REQUEST_ID": "70",
            "CI_MERGE_REQUEST_IID": "7",
            "CI_MERGE_REQUEST_EVENT_TYPE": "detached",
            "CI_MERGE_REQUEST_PROJECT_ID": "42",
            "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "42",
            "CI_MERGE_REQUEST_PROJECT_URL": "https://gitlab.example/acme/models",
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": self.base,
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
            **changes,
        }

    def push(self, **changes: str) -> dict[str, str]:
        return {
            **self.common("push", self.main),
            "CI_COMMIT_BRANCH": "main",
            "CI_COMMIT_REF_NAME": "main",
            "CI_COMMIT_BEFORE_SHA": self.base,
            **changes,
        }

    def tag(self, name: str, **changes: str) -> dict[str, str]:
        return {**self.common("push", self.main), "CI_COMMIT_TAG": name, "CI_COMMIT_REF_NAME": name, **changes}


def make(top: Path, digits: Path, config: str = CONFIG) -> Project:
    """The project in `top`. `digits`: the folder of the trained example."""
    top.mkdir()
    git(top, "init", "--quiet", "--initial-branch", "main")
    (top / "data").mkdir()
    for name in ("calibration.npz", "validation.npz"):
        shutil.copy(digits / name, top / "data" / name)
    base = commit(top, digits / "base.onnx", config, "base")
    git(top, "switch", "--quiet", "--create", "feature")
    feature = commit(top, digits / "model.onnx", config, "head")
    git(top, "switch", "--quiet", "main")
    git(top, "merge", "--quiet", "--no-ff", "-m", "merge", "feature")
    main = git(top, "rev-parse", "HEAD")
    git(top, "tag", "v1.2.3")
    return Project(top, base, feature, main)


def commit(top: Path, model: Path, config: str, message: str) -> str:
    (top / "models").mkdir(exist_ok=True)
    shutil.copy(model, top / "models" / "digits.onnx")
    (top / ".trt-action.yml").write_text(config)
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "-m", message)
    return git(top, "rev-parse", "HEAD")


def git(top: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", f"safe.directory={top}"]
    done = subprocess.run(["git", *identity, *arguments], cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
