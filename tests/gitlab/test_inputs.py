"""Variables of a job: what is read, what is refused, and who gets to see a login."""

from __future__ import annotations

import pytest

from trt_action import report
from trt_action.errors import SettingsError
from trt_action.gitlab import inputs
from trt_action.gitlab.inputs import JobInputs, read, target
from trt_action.gitlab.pipeline_event import Activity
from trt_action.gitlab_job import Job

TOKEN = "glpat-canary0123456789"  # noqa: S105 - made up
OWN = {
    "CI_REGISTRY": "registry.gitlab.example",
    "CI_REGISTRY_IMAGE": "registry.gitlab.example/acme/models",
    "CI_REGISTRY_USER": "gitlab-ci-token",
    "CI_REGISTRY_PASSWORD": "lent",
    "CI_PROJECT_PATH": "Acme/Models",
}


def test_nothing_given_is_the_default() -> None:
    every = {inputs.variable(name): "" for name in (*inputs.MEASURING, *inputs.PUBLISHING)}
    assert read({}) == read(every) == JobInputs()


def test_every_variable_is_read() -> None:
    found = read(
        {
            "TRT_ACTION_GITLAB_TOKEN": f"{TOKEN}\n",
            "GITLAB_TOKEN": "second",
            "TRT_ACTION_COMMENT": "changes-only",
            "TRT_ACTION_COMMENT_ID": "l4",
            "TRT_ACTION_REPORT_ONLY": "true",
            "TRT_ACTION_CHECK_RUN": "status",
            "TRT_ACTION_GPU": "L4",
            "TRT_ACTION_GPU_LOCK_TIMEOUT": "90s",
            "TRT_ACTION_MODEL": "of the settings",
            "TRT_ACTION_SERVICE_HOST": "10.0.0.1",
        }
    )
    assert found.token is not None
    assert found.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(found)
    assert (found.comment, found.comment_id, found.report_only, found.status) == ("changes-only", "l4", True, True)
    assert (found.gpu, found.gpu_lock_timeout) == ("L4", 90.0)
    assert read({"GITLAB_TOKEN": "second"}).token is not None


@pytest.mark.parametrize(
    ("env", "comment_id"),
    [
        ({"CI_NODE_TOTAL": "1", "CI_JOB_NAME": "test"}, "default"),
        ({"CI_NODE_TOTAL": "2", "CI_JOB_NAME": "test: [nvidia l4, int8]"}, "test-nvidia-l4-int8"),
        ({"CI_NODE_TOTAL": "2", "CI_JOB_NAME": "test 1/2"}, "test-1-2"),
        ({"CI_NODE_TOTAL": "2", "CI_JOB_NAME": "x" * 99 + ": [l4]"}, "x" * 61 + "-l4"),
        ({"CI_NODE_TOTAL": "2", "CI_JOB_NAME": "测试"}, "default"),
        ({"CI_NODE_TOTAL": "2", "CI_JOB_NAME": "test: [l4]", "TRT_ACTION_COMMENT_ID": "mine"}, "mine"),
    ],
)
def test_legs_of_a_matrix_write_a_note_each(env: dict[str, str], comment_id: str) -> None:
    assert read(env).comment_id == comment_id
    assert report.marker(read(env).comment_id)


@pytest.mark.parametrize(
    ("name", "value", "what", "next_step"),
    [
        ("TRT_ACTION_REPORT_ONLY", "yes", "`TRT_ACTION_REPORT_ONLY: yes` is not a boolean", "TRT_ACTION_REPORT_ONLY"),
        ("TRT_ACTION_COMMENT", "allways", "`TRT_ACTION_COMMENT: allways`", ".gitlab-ci.yml"),
        ("TRT_ACTION_CHECK_RUN", "check", "is none of GitLab's", "status"),
        ("TRT_ACTION_COMENT_ID", "x", "Unknown variable `TRT_ACTION_COMENT_ID`", "`TRT_ACTION_COMMENT_ID`"),
        ("TRT_ACTION_GITLAB_TOKN", TOKEN, "Unknown variable", "`TRT_ACTION_GITLAB_TOKEN`"),
        ("TRT_ACTION_GITLAB_TOKEN", "two words", "white space", ""),
    ],
)
def test_what_is_refused(name: str, value: str, what: str, next_step: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({name: value})
    assert what in caught.value.what
    assert next_step in caught.value.fix
    assert TOKEN not in str(vars(caught.value))


@pytest.mark.parametrize(
    ("env", "image", "username"),
    [
        ({}, None, None),
        (OWN, "registry.gitlab.example/acme/models", "gitlab-ci-token"),
        ({**OWN, "TRT_ACTION_IMAGE": "acme/digits"}, "registry.gitlab.example/acme/digits", "gitlab-ci-token"),
        ({**OWN, "TRT_ACTION_REGISTRY": "ghcr.io"}, "ghcr.io/acme/models", None),
        (
            {**OWN, "TRT_ACTION_REGISTRY_USERNAME": "robot", "TRT_ACTION_REGISTRY_PASSWORD": "p"},
            "registry.gitlab.example/acme/models",
            "robot",
        ),
        ({**OWN, "CI_REGISTRY_PASSWORD": ""}, "registry.gitlab.example/acme/models", None),
    ],
)
def test_where_is_published(env: dict[str, str], image: str | None, username: str | None) -> None:
    found = target(env)
    assert (found.image, found.username) == (image, username)
    assert (found.password is None) == (username is None)
    assert "lent" not in repr(found)


def test_settings_get_none_of_it_and_no_line_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    env = {**OWN, "TRT_ACTION_GITLAB_TOKEN": TOKEN, "TRT_ACTION_TAGS": "type=sha", "TRT_ACTION_MODEL": "m.onnx"}
    job = Job({**env, "CI_PROJECT_DIR": "/builds/x"}, JobInputs(), Activity("measure", "test"))
    left = job.settings_env
    assert {"TRT_ACTION_GITLAB_TOKEN", "TRT_ACTION_TAGS"}.isdisjoint(left)
    assert (left["TRT_ACTION_MODEL"], left["TRT_ACTION_CACHE"]) == ("m.onnx", "/builds/x/.trt-action/cache")
    job.say(f"a server repeats {TOKEN}\n\x1b[0Ksection_start:1:evil\rand more")
    printed = capsys.readouterr().out
    assert TOKEN not in printed
    assert "\x1b" not in printed
