"""The example's jobs in the action's own image, as GitLab's docker executor runs them: entrypoint overridden, script by stdin,
a fresh checkout and only artifacts from job to job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.doubles.gitlab import project
from tests.doubles.gitlab.project import CONFIG, JOB_TOKEN
from tests.doubles.gitlab.runner import Runner, Variable
from tests.doubles.gitlab.server import GitLab, Identity, serve
from tests.report.test_ci_reports import SCHEMA
from trt_action import report

pytestmark = pytest.mark.docker

EXAMPLE = Path(__file__).parents[2] / "examples/gitlab/.gitlab-ci.yml"
TOKEN = "glpat-canary0123456789abcdef"  # noqa: S105 - the double's own


@pytest.fixture
def gitlab() -> Iterator[GitLab]:
    with serve() as double:
        double.tokens[TOKEN] = Identity()
        yield double
        assert double.violations == []


def test_build_and_test_in_the_image(action_image: str, gitlab: GitLab, digits: Path, tmp_path: Path) -> None:
    one = project.make(tmp_path / "origin", digits, CONFIG.replace("10s", "3s"))
    gitlab.add_merge_request(42, 7, one.feature)
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    variables = [Variable("TRT_ACTION_GITLAB_TOKEN", TOKEN, masked=True)]
    runner = Runner(one.top, tmp_path, config, variables, image=action_image)
    done = runner.pipeline(replace(one, api_url=gitlab.url).merge_request(), protected=False)
    build, test = done["build-engine"], done["test-engine"]
    assert (build.exit_code, test.exit_code) == (0, 0), build.raw + test.raw
    built = json.loads((build.workspace / ".trt-action/built.json").read_text())["engines"]["digits"]["sha256"]
    evidence = report.read_evidence(test.workspace / "trt-action-report/evidence.json")
    assert evidence.head
    assert (evidence.head.engine.sha256, evidence.head.engine.from_cache) == (built, True)
    assert evidence.base
    assert evidence.base.commit == one.base
    assert len(gitlab.bodies(42, 7)) == 1
    SCHEMA.validate((test.workspace / "trt-action-report/junit.xml").read_text())
    for job in done.values():
        for secret in (TOKEN, JOB_TOKEN):
            assert secret not in job.raw
            assert not any(secret.encode() in (job.workspace / path).read_bytes() for path in job.artifacts)


def test_the_images_own_entrypoint_takes_no_script(action_image: str, digits: Path, tmp_path: Path) -> None:
    """Why the jobs override it: without that, the runner's shell would be an argument of the action."""
    one = project.make(tmp_path / "origin", digits)
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    del config["default"]["image"]["entrypoint"]
    done = Runner(one.top, tmp_path, config, image=action_image).pipeline(one.merge_request(), protected=False)
    assert done["build-engine"].exit_code != 0
    assert "$ trt-action gitlab build" not in done["build-engine"].raw
