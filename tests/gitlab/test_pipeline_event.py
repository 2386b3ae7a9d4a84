"""A pipeline becomes an activity."""

from __future__ import annotations

import pytest

from trt_action.errors import SettingsError
from trt_action.gitlab.pipeline_event import Activity, decide, with_push

HEAD, MERGED, TARGET, MERGE_BASE, BEFORE = "a" * 40, "c" * 40, "b" * 40, "d" * 40, "e" * 40
ZERO = "0" * 40
COMMON = {
    "GITLAB_CI": "true",
    "CI_PROJECT_ID": "42",
    "CI_DEFAULT_BRANCH": "main",
    "CI_COMMIT_SHA": HEAD,
    "CI_COMMIT_BEFORE_SHA": ZERO,
}
MERGE_REQUEST = {
    "CI_PIPELINE_SOURCE": "merge_request_event",
    "CI_MERGE_REQUEST_IID": "7",
    "CI_MERGE_REQUEST_PROJECT_ID": "42",
    "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "42",
    "CI_MERGE_REQUEST_PROJECT_URL": "https://gitlab.example/acme/models",
    "CI_MERGE_REQUEST_DIFF_BASE_SHA": MERGE_BASE,
    "CI_COMMIT_REF_NAME": "feature",
}
RESULT = {
    "CI_COMMIT_SHA": MERGED,
    "CI_MERGE_REQUEST_EVENT_TYPE": "merged_result",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": HEAD,
    "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": TARGET,
}
MAIN = {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_BEFORE_SHA": BEFORE}
TAG = {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1.2.3"}


def activity(*layers: dict[str, str], asked: str = "auto") -> Activity:
    env: dict[str, str] = dict(COMMON)
    for layer in layers:
        env |= layer
    return decide(env, activity=asked)


@pytest.mark.parametrize(
    ("layers", "kind", "commit", "measured", "base", "says"),
    [
        ((MERGE_REQUEST,), "measure", HEAD, HEAD, MERGE_BASE, "!7 of this project"),
        ((MERGE_REQUEST, RESULT), "measure", HEAD, MERGED, TARGET, "(merged result)"),
        (
            (MERGE_REQUEST, RESULT, {"CI_MERGE_REQUEST_EVENT_TYPE": "merge_train"}),
            "measure",
            HEAD,
            MERGED,
            TARGET,
            "(merge train)",
        ),
        ((MERGE_REQUEST, {"CI_PIPELINE_SOURCE": "parent_pipeline"}), "measure", HEAD, HEAD, MERGE_BASE, "!7"),
        ((MERGE_REQUEST, {"CI_MERGE_REQUEST_DIFF_BASE_SHA": ""}), "measure", HEAD, HEAD, None, "!7"),
        ((MAIN,), "publish", HEAD, HEAD, BEFORE, "default branch `main`"),
        ((MAIN, {"CI_COMMIT_BEFORE_SHA": ZERO}), "publish", HEAD, HEAD, None, "default branch"),
        ((MAIN, {"CI_PIPELINE_SOURCE": "parent_pipeline"}), "publish", HEAD, HEAD, BEFORE, "default branch"),
        ((MAIN, {"CI_COMMIT_BRANCH": "fix"}), "measure", HEAD, HEAD, BEFORE, "not the default branch"),
        ((TAG,), "promote", HEAD, HEAD, None, "tag `v1.2.3`"),
        ((TAG, {"CI_PIPELINE_SOURCE": "web"}), "promote", HEAD, HEAD, None, "tag"),
        ((MAIN, {"CI_PIPELINE_SOURCE": "schedule"}), "measure", HEAD, HEAD, None, "a schedule"),
        ((MAIN, {"CI_PIPELINE_SOURCE": "web"}), "measure", HEAD, HEAD, None, "by hand"),
        ((MAIN, {"CI_PIPELINE_SOURCE": "pipeline"}), "measure", HEAD, HEAD, None, "another project's"),
        ((MAIN, {"CI_PIPELINE_SOURCE": "ondemand_dast_scan"}), "measure", HEAD, HEAD, None, "`ondemand_dast_scan`"),
    ],
)
def test_decide(
    layers: tuple[dict[str, str], ...], kind: str, commit: str, measured: str, base: str | None, says: str
) -> None:
    found = activity(*layers)
    assert (found.kind, found.commit, found.measured_commit, found.base) == (kind, commit, measured, base)
    assert says in found.reason
    assert found.trusted


@pytest.mark.parametrize(
    "ids",
    [
        {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "99"},  # a member started it in this project
        {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "99", "CI_PROJECT_ID": "99"},  # it runs in the fork
        {"CI_MERGE_REQUEST_PROJECT_ID": "1"},  # this is a fork of project 1
        {"CI_PROJECT_ID": "99"},  # a third project
    ],
)
def test_a_fork_is_a_stranger(ids: dict[str, str]) -> None:
    found = activity(MERGE_REQUEST, ids)
    assert not found.trusted
    assert found.merge_request
    assert found.merge_request.fork
    assert with_push(found, "true").kind == "measure"
    with pytest.raises(SettingsError, match="fork"):
        activity(MERGE_REQUEST, ids, asked="publish")


def test_the_note_belongs_to_the_target() -> None:
    found = activity(MERGE_REQUEST, {"CI_MERGE_REQUEST_PROJECT_ID": "1"}).merge_request
    assert found
    assert (found.project, found.number) == (1, 7)
    assert found.url == "https://gitlab.example/acme/models/-/merge_requests/7"


@pytest.mark.parametrize(
    ("layers", "push", "kind"),
    [
        ((MAIN,), "false", "measure"),
        ((TAG,), "false", "nothing"),
        ((MERGE_REQUEST,), "true", "publish"),
        ((MERGE_REQUEST,), "auto", "measure"),
    ],
)
def test_push(layers: tuple[dict[str, str], ...], push: str, kind: str) -> None:
    assert with_push(activity(*layers), push).kind == kind


@pytest.mark.parametrize(
    ("layers", "asked", "says"),
    [
        (({"GITLAB_CI": ""},), "auto", "no job of GitLab"),
        (({"CI_COMMIT_SHA": "x"},), "auto", "CI_COMMIT_SHA is `x`"),
        (({"CI_COMMIT_SHA": ZERO},), "auto", "CI_COMMIT_SHA"),
        ((MERGE_REQUEST, {"CI_MERGE_REQUEST_IID": "7; rm"}), "auto", "CI_MERGE_REQUEST_IID is `7; rm`"),
        ((MERGE_REQUEST, {"CI_MERGE_REQUEST_PROJECT_ID": ""}), "auto", "CI_MERGE_REQUEST_PROJECT_ID"),
        ((MERGE_REQUEST, {"CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "main"}), "auto", "SOURCE_BRANCH_SHA"),
        ((MAIN,), "mesure", "`activity` is `mesure`"),
        ((MAIN,), "promote", "no tag's pipeline"),
    ],
)
def test_what_is_refused(layers: tuple[dict[str, str], ...], asked: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        activity(*layers, asked=asked)
    assert says in caught.value.what
    assert caught.value.fix


def test_asked_for() -> None:
    assert activity(MAIN, {"CI_PIPELINE_SOURCE": "web"}, asked="publish").kind == "publish"
    assert activity(MAIN, asked="nothing").kind == "nothing"
