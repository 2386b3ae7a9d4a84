"""An event becomes an activity. Pure: name, payload and environment in, one decision out.

Payload fields: https://docs.github.com/webhooks/webhook-events-and-payloads; on `pull_request`, `GITHUB_SHA` is the
merge commit, and results belong to `pull_request.head.sha`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from trt_action.errors import SettingsError

Kind = Literal["measure", "publish", "promote", "report", "nothing"]
KINDS: tuple[Kind, ...] = ("measure", "publish", "promote", "report", "nothing")
DEPENDABOT = "dependabot[bot]"
_PRIVILEGED = ("pull_request_target", "workflow_run")
"""Events of a stranger's pull request that run with this repository's token and secrets."""
MEASURED_ACTIONS = ("opened", "synchronize", "reopened", "labeled", "ready_for_review")
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_NO_COMMIT = re.compile(r"0+")


@dataclass(frozen=True)
class PullRequest:
    """What later steps need of a pull request. Every value was checked for its form."""

    number: int
    head_sha: str
    base_sha: str
    base_ref: str
    head_repository: str
    base_repository: str

    @property
    def fork(self) -> bool:
        """The head lives in another repository (or in one that was deleted)."""
        return self.head_repository != self.base_repository


@dataclass(frozen=True)
class Activity:
    """What this run is for.

    `commit` is what results are attached to; `measured_commit` is what was checked out. `base` is the revision that
    `base: auto` means here (None: `model/base.py` decides). `trusted`: code and token belong to this repository.
    """

    kind: Kind
    reason: str
    pull_request: PullRequest | None = None
    commit: str = ""
    measured_commit: str = ""
    base: str | None = None
    ref: str = ""
    tag: str | None = None
    trusted: bool = True
    can_write: bool = True


def decide(
    event_name: str,
    payload: Mapping[str, Any],
    env: Mapping[str, str],
    *,
    allow_untrusted_fork: bool = False,
    activity: str = "auto",
) -> Activity:
    """The activity of this event; `activity` other than `auto` (an input) overrides its kind.

    Raises:
        SettingsError: the event is not one that this action serves, its payload lacks what GitHub documents, or it
            would run a fork's code with this repository's rights.
    """
    asked = next((kind for kind in KINDS if kind == activity), None)
    if activity != "auto" and asked is None:
        raise SettingsError(f"`activity` is `{activity}`.", fix=f"Allowed: auto, {', '.join(KINDS)}.")
    known = _EVENTS.get(event_name)
    if known is None:
        raise SettingsError(
            f"The event `{event_name}` is not one that this action serves.",
            fix=f"Use one of: {', '.join(sorted(_EVENTS))}.",
        )
    decided = known(payload, env)
    runs_code = (asked or decided.kind) not in ("report", "nothing")
    if event_name in _PRIVILEGED and runs_code and not (decided.trusted or allow_untrusted_fork):
        raise _untrusted(event_name)
    if asked is None:
        return decided
    if asked in ("publish", "promote") and not decided.trusted:
        raise SettingsError(
            f"`activity: {activity}` was asked on an untrusted event ({event_name}).",
            why="A fork's or Dependabot's code never publishes.",
            fix="Publish on a push to the default branch.",
        )
    return replace(decided, kind=asked, reason=f"the input `activity` asks for `{asked}`")


def with_push(decided: Activity, push: str) -> Activity:
    """The activity as the input `push` changes it: `false` publishes and promotes nothing, `true` publishes on other
    events of this repository too. A fork never publishes."""
    if push == "false" and decided.kind in ("publish", "promote"):
        kind: Kind = "measure" if decided.kind == "publish" else "nothing"
        return replace(decided, kind=kind, reason=f"{decided.reason}; `push: false`")
    if push == "true" and decided.kind == "measure":
        if not decided.trusted:
            return replace(decided, reason=f"{decided.reason}; `push: true` is not for strangers")
        return replace(decided, kind="publish", reason=f"{decided.reason}; `push: true`")
    return decided


def _pull_request(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    action = str(payload.get("action", ""))
    pull = read_pull_request(payload.get("pull_request"))
    dependabot = env.get("GITHUB_ACTOR") == DEPENDABOT
    who = "from a fork" if pull.fork else "from Dependabot" if dependabot else "of this repository"
    measured = action in MEASURED_ACTIONS or (action == "edited" and _has_new_base(payload))
    return Activity(
        "measure" if measured else "nothing",
        f"pull request #{pull.number} {who} ({action or 'no action'})" + ("" if measured else ": nothing to measure"),
        pull,
        commit=pull.head_sha,
        measured_commit=env.get("GITHUB_SHA", pull.head_sha),
        base=pull.base_sha,
        ref=env.get("GITHUB_REF", ""),
        trusted=not (pull.fork or dependabot),
        can_write=not (pull.fork or dependabot),
    )


def _has_new_base(payload: Mapping[str, Any]) -> bool:
    """`edited` tells of titles and texts too; only another base branch changes what is compared."""
    changes = payload.get("changes")
    return isinstance(changes, Mapping) and "base" in changes


def _pull_request_target(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    """Runs with the base's rights: the checkout is the base unless the workflow checks out the head itself."""
    return replace(_pull_request(payload, env), can_write=True)


def _untrusted(event_name: str) -> SettingsError:
    return SettingsError(
        f"`{event_name}` would run an untrusted pull request with this repository's token and secrets.",
        why="Whoever opens the pull request could read them, or leave something on the GPU host.",
        fix="Measure on `pull_request` and comment from a `workflow_run` workflow (see README, Forks). "
        "Only if the runner is disposable and holds no secret: `allow-untrusted-fork: true`.",
    )


def _push(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    ref = str(payload.get("ref") or env.get("GITHUB_REF", ""))
    sha = env.get("GITHUB_SHA", "")
    if payload.get("deleted"):
        return Activity("nothing", f"`{ref}` was deleted", ref=ref)
    if ref.startswith("refs/tags/"):
        return _release_tag(ref.removeprefix("refs/tags/"), sha)
    default = (payload.get("repository") or {}).get("default_branch")
    branch = ref.removeprefix("refs/heads/")
    before = str(payload.get("before") or "")
    common: dict[str, Any] = {
        "commit": sha,
        "measured_commit": sha,
        "base": before if _SHA.fullmatch(before) and not _NO_COMMIT.fullmatch(before) else None,
        "ref": ref,
    }
    if branch == default:
        return Activity("publish", f"push to the default branch `{branch}`", **common)
    return Activity("measure", f"push to `{branch}`, which is not the default branch", **common)


def _release(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    action = str(payload.get("action", ""))
    tag = str((payload.get("release") or {}).get("tag_name") or "")
    if action != "published" or not tag:
        return Activity("nothing", f"release {action}: only `published` promotes")
    return _release_tag(tag, env.get("GITHUB_SHA", ""))


def _release_tag(tag: str, sha: str) -> Activity:
    return Activity("promote", f"tag `{tag}`", commit=sha, measured_commit=sha, ref=f"refs/tags/{tag}", tag=tag)


def _workflow_run(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    """The trusted half of the fork-safe pair. The pull request is found through the API, never from an artifact."""
    run = payload.get("workflow_run") or {}
    sha = str(run.get("head_sha") or "")
    if not _SHA.fullmatch(sha):
        raise SettingsError(
            "The `workflow_run` event names no head commit.",
            fix="Let this job run on `workflow_run: {types: [completed]}`.",
        )
    head, own = (_full_name(one.get(key)) for one, key in ((run, "head_repository"), (payload, "repository")))
    return Activity(
        "report",
        f"results of the finished workflow for {sha[:12]}",
        commit=sha,
        measured_commit=sha,
        trusted=bool(own) and head == own,
    )


def _full_name(repository: object) -> str:
    return str(repository.get("full_name") or "") if isinstance(repository, Mapping) else ""


def _merge_group(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    group = payload.get("merge_group") or {}
    head = str(group.get("head_sha") or env.get("GITHUB_SHA", ""))
    base = str(group.get("base_sha") or "")
    return Activity(
        "measure",
        "merge queue",
        commit=head,
        measured_commit=head,
        base=base if _SHA.fullmatch(base) else None,
        ref=env.get("GITHUB_REF", ""),
    )


def _by_hand(payload: Mapping[str, Any], env: Mapping[str, str]) -> Activity:
    """workflow_dispatch, repository_dispatch and schedule measure what is checked out; publishing by hand needs
    `activity: publish`."""
    sha = env.get("GITHUB_SHA", "")
    return Activity(
        "measure",
        "started by hand, by the API or by the clock",
        commit=sha,
        measured_commit=sha,
        ref=env.get("GITHUB_REF", ""),
    )


_EVENTS = {
    "pull_request": _pull_request,
    "pull_request_target": _pull_request_target,
    "push": _push,
    "release": _release,
    "workflow_run": _workflow_run,
    "workflow_dispatch": _by_hand,
    "repository_dispatch": _by_hand,
    "schedule": _by_hand,
    "merge_group": _merge_group,
}


def read_pull_request(record: object) -> PullRequest:
    """A pull request from a payload or an API answer, its values checked for their form.

    Raises:
        SettingsError: a field that GitHub documents is missing or malformed.
    """
    try:
        if not isinstance(record, Mapping):
            raise TypeError("it is not an object")
        head, base = record["head"], record["base"]
        pull = PullRequest(
            number=int(record["number"]),
            head_sha=str(head["sha"]),
            base_sha=str(base["sha"]),
            base_ref=str(base["ref"]),
            head_repository=str((head.get("repo") or {}).get("full_name") or "(deleted)"),
            base_repository=str(base["repo"]["full_name"]),
        )
        if not (_SHA.fullmatch(pull.head_sha) and _SHA.fullmatch(pull.base_sha)):
            raise ValueError("a commit is not a SHA")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"The pull request in the event is not as GitHub documents it ({type(error).__name__}: {error}).",
            fix="If you start the action yourself, give it the event file that GitHub sends (GITHUB_EVENT_PATH).",
        ) from None
    return pull
