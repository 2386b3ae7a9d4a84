"""A pipeline becomes an activity. Pure: the environment of a job in, one decision out.

Variables: https://docs.gitlab.com/ci/variables/predefined_variables/. In a merged-results pipeline (and a merge train)
`CI_COMMIT_SHA` is a merge commit that exists nowhere else, and results belong to `CI_MERGE_REQUEST_SOURCE_BRANCH_SHA`; in
any other merge request pipeline that variable is empty, and `CI_COMMIT_SHA` is the source branch's head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from trt_action.errors import SettingsError
from trt_action.inputs import quote

Kind = Literal["measure", "publish", "promote", "nothing"]
KINDS: tuple[Kind, ...] = ("measure", "publish", "promote", "nothing")

_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_NO_COMMIT = re.compile(r"0+")
_NUMBER = re.compile(r"[1-9]\d{0,17}")


@dataclass(frozen=True)
class MergeRequest:
    """What later steps need of a merge request. Every value was checked for its form.

    `project`, `number`: id of the project that it belongs to (the target's), and its number there.
    """

    project: int
    number: int
    head_sha: str
    url: str
    fork: bool


@dataclass(frozen=True)
class Activity:
    """What this pipeline is for.

    `commit` is what results are attached to; `measured_commit` is what was checked out. `base` is the revision that
    `base: auto` means here (None: `model/base.py` decides). `trusted`: the code belongs to this project, so its jobs may
    use the project's secrets.
    """

    kind: Kind
    reason: str
    merge_request: MergeRequest | None = None
    commit: str = ""
    measured_commit: str = ""
    base: str | None = None
    ref: str = ""
    tag: str | None = None
    trusted: bool = True


def decide(env: Mapping[str, str], *, activity: str = "auto") -> Activity:
    """The activity of this pipeline; `activity` other than `auto` overrides its kind.

    Raises:
        SettingsError: this is no GitLab job, a variable is not as GitLab documents it, or a stranger's code would
            publish.
    """
    asked = next((kind for kind in KINDS if kind == activity), None)
    if activity != "auto" and asked is None:
        raise SettingsError(f"`activity` is {quote(activity)}.", fix=f"Allowed: auto, {', '.join(KINDS)}.")
    if env.get("GITLAB_CI") != "true":
        raise SettingsError(
            "This is no job of GitLab: GITLAB_CI is not `true`.",
            why="`trt-action gitlab` takes commit, merge request and branch from the variables that a runner sets.",
            fix="Elsewhere use `trt-action run`.",
        )
    decided = _of_pipeline(env)
    if asked is None:
        return decided
    if asked in ("publish", "promote") and not decided.trusted:
        raise SettingsError(
            f"`activity: {activity}` was asked in a pipeline of a fork's merge request.",
            why="A fork's code never publishes.",
            fix="Publish in pipelines of the default branch.",
        )
    if asked == "promote" and not decided.tag:
        raise SettingsError("`activity: promote` was asked, and this is no tag's pipeline.", fix="Run it for a tag.")
    return replace(decided, kind=asked, reason=f"`activity` asks for `{asked}`")


def with_push(decided: Activity, push: str) -> Activity:
    """The activity as `push` changes it: `false` publishes and promotes nothing, `true` publishes in other pipelines of
    this project too. A fork never publishes."""
    if push == "false" and decided.kind in ("publish", "promote"):
        kind: Kind = "measure" if decided.kind == "publish" else "nothing"
        return replace(decided, kind=kind, reason=f"{decided.reason}; `push: false`")
    if push == "true" and decided.kind == "measure":
        if not decided.trusted:
            return replace(decided, reason=f"{decided.reason}; `push: true` is not for strangers")
        return replace(decided, kind="publish", reason=f"{decided.reason}; `push: true`")
    return decided


def _of_pipeline(env: Mapping[str, str]) -> Activity:
    source = env.get("CI_PIPELINE_SOURCE", "")
    if env.get("CI_MERGE_REQUEST_IID"):  # also set in a child of such a pipeline
        return _merge_request(env)
    if env.get("CI_COMMIT_TAG"):
        return _tag(env)
    if source in ("push", "parent_pipeline"):
        return _branch(env)
    words = {
        "schedule": "a schedule",
        "web": "a person, by hand",
        "api": "the API",
        "trigger": "a trigger token",
        "pipeline": "another project's pipeline",
    }
    started = words.get(source, f"the source {quote(source)}" if source else "an unknown source")
    return _of_commit(env, "measure", f"started by {started}")


def _merge_request(env: Mapping[str, str]) -> Activity:
    """A fork's pipeline runs in the fork, or in the project itself when a member starts it there: both are strangers'
    code."""
    source, target, here = (
        _number(env, name)
        for name in ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "CI_MERGE_REQUEST_PROJECT_ID", "CI_PROJECT_ID")
    )
    merged = env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "")
    found = MergeRequest(
        project=target,
        number=_number(env, "CI_MERGE_REQUEST_IID"),
        head_sha=_sha(env, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA" if merged else "CI_COMMIT_SHA"),
        url=f"{env.get('CI_MERGE_REQUEST_PROJECT_URL', '')}/-/merge_requests/{env.get('CI_MERGE_REQUEST_IID', '')}",
        fork=not source == target == here,
    )
    who = "from a fork" if found.fork else "of this project"
    how = (
        "merge train" if env.get("CI_MERGE_REQUEST_EVENT_TYPE") == "merge_train" else "merged result" if merged else ""
    )
    bases = (env.get("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", ""), env.get("CI_MERGE_REQUEST_DIFF_BASE_SHA", ""))
    return Activity(
        "measure",
        f"merge request !{found.number} {who}" + (f" ({how})" if how else ""),
        found,
        commit=found.head_sha,
        measured_commit=_sha(env, "CI_COMMIT_SHA"),
        base=next((one for one in bases if _is_commit(one)), None),
        ref=f"refs/merge-requests/{found.number}/head",
        trusted=not found.fork,
    )


def _tag(env: Mapping[str, str]) -> Activity:
    tag = env["CI_COMMIT_TAG"]
    return replace(_of_commit(env, "promote", f"tag {quote(tag)}"), ref=f"refs/tags/{tag}", tag=tag)


def _branch(env: Mapping[str, str]) -> Activity:
    """A push. A child pipeline knows no more than its branch: its parent was started for the same commit."""
    branch, default = env.get("CI_COMMIT_BRANCH", ""), env.get("CI_DEFAULT_BRANCH", "")
    before = env.get("CI_COMMIT_BEFORE_SHA", "")
    if branch and branch == default:
        found = _of_commit(env, "publish", f"push to the default branch {quote(branch)}")
    else:
        found = _of_commit(env, "measure", f"push to {quote(branch or 'no branch')}, which is not the default branch")
    return replace(found, base=before if _is_commit(before) else None)


def _of_commit(env: Mapping[str, str], kind: Kind, reason: str) -> Activity:
    sha = _sha(env, "CI_COMMIT_SHA")
    branch = env.get("CI_COMMIT_BRANCH") or env.get("CI_COMMIT_REF_NAME", "")
    return Activity(kind, reason, commit=sha, measured_commit=sha, ref=f"refs/heads/{branch}" if branch else "")


def _is_commit(text: str) -> bool:
    return _SHA.fullmatch(text) is not None and _NO_COMMIT.fullmatch(text) is None


def _sha(env: Mapping[str, str], name: str) -> str:
    text = env.get(name, "")
    if not _is_commit(text):
        raise _odd(name, text, "a commit's id")
    return text


def _number(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise _odd(name, text, "a number")
    return int(text)


def _odd(name: str, text: str, expected: str) -> SettingsError:
    return SettingsError(
        f"{name} is {quote(text)}, which is not {expected}.",
        why="GitLab sets this variable for every job of such a pipeline.",
        fix="Do not set it in `.gitlab-ci.yml` or in the project's variables.",
    )
