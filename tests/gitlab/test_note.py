"""One note per merge request and id, whatever happens."""

from __future__ import annotations

import threading

import pytest

from tests.doubles.gitlab.server import Fault, GitLab, Identity, Seen
from tests.gitlab.conftest import HEAD, MERGE_REQUEST, PROJECT, MakeClient
from tests.report import samples
from trt_action import report
from trt_action.discussion import CommentResult, Run, without_stamp
from trt_action.errors import GitLabError
from trt_action.gitlab import note
from trt_action.gitlab.api import Client

MARK = report.marker()
BODY = f"{MARK}\n\n✅ **Passed**\n"
RUN = Run(id=1_000, attempt=5_000, started=1_000)
NOTES = "/merge_requests/7/notes"


def upsert(client: Client, body: str = BODY, *, run: Run = RUN, create: bool = True) -> CommentResult:
    comment_id = body.partition("id=")[2].partition(" ")[0]
    return note.upsert(client, MERGE_REQUEST, comment_id, body, run=run, create=create)


def texts(gitlab: GitLab) -> list[str]:
    return [without_stamp(body) for body in gitlab.bodies(PROJECT, 7)]


def stamped(run: Run, head: str = HEAD) -> str:
    return f"{MARK}\n<!-- trt-action:run head={head} run={run.id} attempt={run.attempt} started={run.started} -->\nold"


def test_create_then_update_in_place(gitlab: GitLab, client: Client) -> None:
    made = upsert(client)
    assert (made.posted, made.reason, texts(gitlab)) == (True, "Comment created.", [BODY])
    assert made.url == f"{MERGE_REQUEST.url}#note_{next(iter(gitlab.notes))}"
    changed = upsert(client, BODY + "more\n", run=Run(1_001, 5_001, 2_000))
    assert (changed.url, changed.posted, texts(gitlab)) == (made.url, True, [BODY + "more\n"])


@pytest.mark.parametrize("before", [0, 20, 99, 100, 250])
def test_the_own_note_is_found_on_any_page(gitlab: GitLab, client: Client, before: int) -> None:
    for n in range(before):
        gitlab.add_note(PROJECT, 7, f"remark {n}", "ada")
    gitlab.add_note(PROJECT, 7, stamped(Run(1, 1, 1)))
    gitlab.add_note(PROJECT, 7, "remark", "ada")
    assert upsert(client).reason == "Comment updated."
    assert texts(gitlab).count(BODY) == 1
    assert len(texts(gitlab)) == before + 2


def test_duplicates_are_removed_and_the_oldest_stays(gitlab: GitLab, client: Client) -> None:
    first = gitlab.add_note(PROJECT, 7, f"{MARK}\nfirst")
    for n in range(130):
        gitlab.add_note(PROJECT, 7, f"{MARK}\nduplicate {n}")
    assert upsert(client).posted
    assert list(gitlab.notes) == [first]
    assert texts(gitlab) == [BODY]


@pytest.mark.parametrize(
    ("body", "username", "system"),
    [
        (f"{MARK}\nquoted by a person", "mallory", False),
        (f"> {MARK}\nour own, quoting", "project_42_bot", False),
        (f"{MARK}\nwhat GitLab itself says", "project_42_bot", True),
        ("<!-- trt-action:comment id=other -->\nother id", "project_42_bot", False),
    ],
)
def test_foreign_notes_are_left_alone(gitlab: GitLab, client: Client, body: str, username: str, system: bool) -> None:
    gitlab.add_note(PROJECT, 7, body, username, system=system)
    assert upsert(client).reason == "Comment created."
    assert texts(gitlab) == [body, BODY]


def test_a_pipeline_of_an_older_commit_writes_nothing(gitlab: GitLab, client: Client) -> None:
    gitlab.add_note(PROJECT, 7, f"{MARK}\nnewer")
    gitlab.merge_requests[PROJECT, 7]["sha"] = "b" * 40
    result = upsert(client)
    assert (result.posted, texts(gitlab)) == (False, [f"{MARK}\nnewer"])
    assert "Stale: !7 is at bbbbbbbbbbbb now, not aaaaaaaaaaaa." in result.reason


@pytest.mark.parametrize(
    ("there", "posted"),
    [
        (Run(1_000, 5_000, 1_000), True),
        (Run(1_000, 5_001, 1_000), False),  # the job was started again meanwhile
        (Run(1_001, 5_001, 2_000), False),  # a later pipeline
        (Run(1_001, 4_999, 1_000), False),  # a later pipeline, made in the same second
        (Run(999, 5_001, 900), True),
    ],
)
def test_of_two_pipelines_of_one_commit_the_later_stays(
    gitlab: GitLab, client: Client, there: Run, posted: bool
) -> None:
    gitlab.add_note(PROJECT, 7, stamped(there))
    result = upsert(client)
    assert result.posted == posted
    assert (texts(gitlab) == [BODY]) == posted


def test_changes_only_starts_nothing(gitlab: GitLab, client: Client) -> None:
    assert not upsert(client, create=False).posted
    assert gitlab.notes == {}


@pytest.mark.parametrize(
    ("token", "identity", "says"),
    [
        ("none", None, "401 Unauthorized"),
        ("reader", Identity(scope="read_api"), "higher privileges"),
    ],
)
def test_a_token_that_may_not_write_is_told(
    gitlab: GitLab, make_client: MakeClient, token: str, identity: Identity | None, says: str
) -> None:
    if identity:
        gitlab.tokens[token] = identity
    result = upsert(make_client(token))
    assert (result.posted, gitlab.notes) == (False, {})
    assert says in result.reason
    assert token not in result.reason.replace(says, "")


def test_a_stranger_finds_nothing(gitlab: GitLab, make_client: MakeClient) -> None:
    gitlab.tokens["stranger"] = Identity(member=False)
    with pytest.raises(GitLabError, match="404") as caught:
        upsert(make_client("stranger"))
    assert "member" in caught.value.fix


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", NOTES, "reset-after"),
        Fault("POST", NOTES, "reset-before"),
        Fault("POST", NOTES, status=502),
        Fault("POST", NOTES, status=429, headers={"Retry-After": "3"}, times=3),
        Fault("GET", NOTES, status=500, times=3),
        Fault("PUT", NOTES, status=409, times=2),
        Fault("PUT", NOTES, "reset-after"),
        Fault("DELETE", NOTES, "reset-after"),
        Fault("GET", "/user", status=503),
    ],
    ids=lambda fault: f"{fault.method} {fault.kind} {fault.status}",
)
@pytest.mark.parametrize("there", [0, 1, 3])
def test_faults_leave_one_note(gitlab: GitLab, client: Client, fault: Fault, there: int) -> None:
    for _ in range(there):
        gitlab.add_note(PROJECT, 7, f"{MARK}\nold")
    gitlab.faults.append(Fault(**vars(fault)))
    assert upsert(client).posted
    assert texts(gitlab) == [BODY]


def test_a_note_that_goes_meanwhile_is_made_again(gitlab: GitLab, client: Client) -> None:
    identifier = gitlab.add_note(PROJECT, 7, f"{MARK}\nold")

    def delete(seen: Seen) -> None:
        if seen.method == "PUT":
            gitlab.notes.pop(identifier, None)

    gitlab.hooks.append(delete)
    assert upsert(client).reason == "Comment created."
    assert texts(gitlab) == [BODY]


@pytest.mark.parametrize("before", [0, 95])
def test_racing_jobs_leave_exactly_one_note(gitlab: GitLab, make_client: MakeClient, before: int) -> None:
    for n in range(before):
        gitlab.add_note(PROJECT, 7, f"remark {n}", "ada")
    jobs = 20
    start = threading.Barrier(jobs)
    results: list[CommentResult] = []
    failures: list[BaseException] = []

    def job(n: int) -> None:
        try:
            client = make_client()
            start.wait(30)
            results.append(upsert(client, f"{BODY}job {n}\n", run=Run(1_000, 5_000 + n, 1_000)))
        except BaseException as error:  # noqa: BLE001 - a thread's failure is shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=job, args=(n,)) for n in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    own = [body for body in texts(gitlab) if body.startswith(MARK)]
    assert len(own) == 1
    assert len(results) == jobs
    assert any(result.posted for result in results)
    assert len(texts(gitlab)) == before + 1


def test_hostile_text_gives_no_command(gitlab: GitLab, client: Client) -> None:
    """Lines of a log that a stranger's model wrote: no quick action, no trace on another merge request."""
    evil = samples.error()
    assert evil.error
    what = "first\n/close\n  /merge\n/label ~evil\n\n```\n/approve\n```\n<pre>x\n/lock\n"
    one = evil.model_copy(update={"error": evil.error.model_copy(update={"what": what, "why": "see !12 and !13"})})
    body = report.comment([one], budget=note.BUDGET) + "\n/close\n\t/merge now\nsee !12\n"
    assert upsert(client, body).posted
    (text,) = texts(gitlab)
    assert gitlab.executed == []
    assert "!12" not in text
    assert text.replace("\u200b", "") == body


def test_a_body_at_its_budget_fits(gitlab: GitLab, client: Client) -> None:
    most = f"{MARK}\n" + "!1" * ((note.BUDGET - len(MARK) - 1) // 2)
    assert len(most.encode()) <= note.BUDGET
    assert upsert(client, most).posted
    many = [samples.regressed().model_copy(update={"warnings": ["€" * 400] * 100})] * 12
    assert upsert(client, report.comment(many, budget=note.BUDGET), run=Run(1_001, 1, 2_000)).posted
    with pytest.raises(ValueError, match="characters"):
        upsert(client, f"{MARK}\n" + "x" * note.MAX_CHARACTERS)


@pytest.mark.parametrize(
    ("env", "run"),
    [
        (
            {"CI_PIPELINE_ID": "17", "CI_JOB_ID": "12345678901", "CI_PIPELINE_CREATED_AT": "1970-01-01T00:20:00Z"},
            Run(17, 12_345_678_901, 1_200),
        ),
        ({}, Run(0, 0, 0)),
        ({"CI_PIPELINE_ID": "-1 -->", "CI_JOB_ID": "9" * 30, "CI_PIPELINE_CREATED_AT": "soon"}, Run(0, 0, 0)),
    ],
)
def test_the_run_that_the_runner_names(env: dict[str, str], run: Run) -> None:
    assert note.run_of(env) == run
