"""The component and the example: valid for GitLab's own schema, and generated from the table of options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.doubles.gitlab import ci
from trt_action.gitlab import inputs
from trt_action.publish import wanted
from trt_action.settings.options import OPTIONS

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "templates/trt-action/template.yml"
EXAMPLE = ROOT / "examples/gitlab/.gitlab-ci.yml"
GIVEN: dict[str, Any] = {
    "model": "models/digits.onnx",
    "precision": "int8",
    "latency-threshold": "p99 < 50ms",
    "tags": "type=sha\ntype=raw,value=nightly",
    "runner-tags": ["gpu-l4"],
}


def check(path: Path) -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    if not tool.exists():
        pytest.skip("check-jsonschema is not installed (`make` installs it)")
    command = [str(tool), "--builtin-schema", "vendor.gitlab-ci", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("given", [{}, GIVEN], ids=["defaults", "given"])
def test_the_component_follows_gitlabs_schema(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "component.json").write_text(json.dumps(ci.component(COMPONENT, given)))
    check(tmp_path / "component.json")


def test_its_header_follows_gitlabs_schema(tmp_path: Path) -> None:
    header, _ = yaml.safe_load_all(COMPONENT.read_text())
    (tmp_path / "header.json").write_text(json.dumps(header))
    check(tmp_path / "header.json")
    assert all(one["description"] and "default" in one for one in header["spec"]["inputs"].values())


def test_the_example_follows_gitlabs_schema() -> None:
    check(EXAMPLE)


def test_every_option_reaches_the_jobs_that_may_have_it() -> None:
    values = {option.name: f"<{option.name}>" for option in OPTIONS if not option.choices}
    jobs = ci.jobs(ci.component(COMPONENT, values | GIVEN))
    for option in OPTIONS:
        for job in jobs.values():
            assert inputs.variable(option.name) in job["variables"], option.name
            if option.name in values | GIVEN:
                assert job["variables"][inputs.variable(option.name)] == (values | GIVEN)[option.name]
    build, test, publish = jobs.values()
    for name in inputs.PUBLISHING:
        variable = inputs.variable(name)
        assert variable not in build["variables"]
        assert variable not in test["variables"]
        assert (variable in publish["variables"]) == (name not in wanted.SECRETS)
    assert publish["variables"]["TRT_ACTION_TAGS"] == GIVEN["tags"]


@pytest.mark.parametrize("config", ["component", "example"])
def test_only_the_publishing_job_has_an_environment_and_nothing_interrupts_it(config: str) -> None:
    """A variable of the environment's scope reaches that job alone."""
    found = ci.component(COMPONENT, {}) if config == "component" else yaml.safe_load(EXAMPLE.read_text())
    build, test, publish = ci.jobs(found).values()
    assert "environment" not in build
    assert "environment" not in test
    assert publish["environment"] == {"name": "trt-action/publish", "action": "access"}
    assert (build["interruptible"], test["interruptible"], publish["interruptible"]) == (True, True, False)
    assert test["resource_group"]
    assert test["artifacts"]["when"] == "always"
    assert set(test["artifacts"]["reports"]) == {"junit", "metrics", "dotenv"}
    assert all(job["image"]["entrypoint"] == [""] for job in (build, test, publish))


MAIN = {"CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}


@pytest.mark.parametrize("config", ["component", "example"])
@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"CI_MERGE_REQUEST_IID": "7", "CI_PIPELINE_SOURCE": "merge_request_event"}, 2),
        ({**MAIN, "CI_PIPELINE_SOURCE": "push"}, 3),
        ({**MAIN, "CI_PIPELINE_SOURCE": "schedule"}, 2),
        ({**MAIN, "CI_COMMIT_BRANCH": "fix", "CI_PIPELINE_SOURCE": "web"}, 2),
        ({**MAIN, "CI_COMMIT_BRANCH": "fix", "CI_PIPELINE_SOURCE": "push"}, 0),
        ({"CI_COMMIT_TAG": "v1.2.3", "CI_DEFAULT_BRANCH": "main", "CI_PIPELINE_SOURCE": "push"}, 1),
    ],
)
def test_which_jobs_a_pipeline_has(config: str, env: dict[str, str], expected: int) -> None:
    found = ci.component(COMPONENT, {}) if config == "component" else yaml.safe_load(EXAMPLE.read_text())
    chosen = [name for name, job in ci.jobs(found).items() if ci.runs(job, env)]
    assert len(chosen) == expected
    assert (expected in (1, 3)) == any("publish" in name for name in chosen)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", True),
        ("$B", False),
        ("$C", False),
        ('$A == "a"', True),
        ("$A == $B", False),
        ("$B == null", False),
        ("$C == null", True),
        ('$A != "a" || $C == null && $A', True),
        ('($A != "a" || $C == null) && $B', False),
        ("$A =~ /^(a|b)$/", True),
        ("$A !~ /A/i", False),
    ],
)
def test_how_the_double_reads_a_rule(text: str, expected: bool) -> None:
    assert ci.evaluate(text, {"A": "a", "B": ""}) is expected
