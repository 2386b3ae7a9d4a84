"""One comment per pull request and id, whatever happens."""

from __future__ import annotations

import threading

import pytest

from tests.doubles.github.server import Fault, GitHub, Identity, Seen
from tests.github.conftest import HEAD, REPOSITORY, MakeClient
from tests.report import samples
from trt_action import report
from trt_action.errors import GitHubError
from trt_action.github import comment
from trt_action.github.api import Client
from trt_action.github.comment import CommentResult, Run

MARK = report.marker()
BODY = f"{MARK}\n\n✅ **Passed**\n"
RUN = Run(id=50, attempt=1, started=1_000)
COMMENTS = f"/repos/{REPOSITORY}/issues/7/comments"


def upsert(client: Client, body: str = BODY, *, run: Run = RUN, head: str = HEAD, create: bool = True) -> CommentResult:
    comment_id = body.partition("id=")[2].partition(" ")[0]
    return comment.upsert(client, REPOSITORY, 7, comment_id, body, head_sha=head, run=run, create=create)


def texts(github: GitHub) -> list[str]:
    return [comment.without_stamp(body) for body in github.bodies(REPOSITORY, 7)]


def stamped(run: Run, head: str = HEAD, text: str = "old") -> str:
    return (
        f"{MARK}\n<!-- trt-action:run head={head} run={run.id} attempt={run.attempt} started={run.started} -->\n{text}"
    )


def test_create_then_update_in_place(github: GitHub, client: Client) -> None:
    made = upsert(client)
    assert (made.posted, made.reason, texts(github)) == (True, "Comment created.", [BODY])
    changed = upsert(client, BODY + "more\n", run=Run(51, 1, 2_000))
    assert (changed.url, changed.posted, texts(github)) == (made.url, True, [BODY + "more\n"])


def test_a_rendered_comment_at_its_budget_is_taken(github: GitHub, client: Client) -> None:
    many = [samples.regressed().model_copy(update={"warnings": ["€" * 400] * 100})] * 12
    body = report.comment(many, budget=comment.BUDGET)
    assert len(body.encode()) > comment.BUDGET / 2
    upsert(client, body)
    assert texts(github) == [body]


@pytest.mark.parametrize("before", [0, 29, 30, 99, 100, 101, 250])
def test_the_own_comment_is_found_on_any_page(github: GitHub, client: Client, before: int) -> None:
    for n in range(before):
        github.add_comment(REPOSITORY, 7, f"remark {n}", "ada")
    github.add_comment(REPOSITORY, 7, stamped(Run(1, 1, 1)))
    github.add_comment(REPOSITORY, 7, "remark", "ada")
    assert upsert(client).reason == "Comment updated."
    assert texts(github).count(BODY) == 1
    assert len(texts(github)) == before + 2


def test_duplicates_are_removed_and_the_oldest_stays(github: GitHub, client: Client) -> None:
    first = github.add_comment(REPOSITORY, 7, f"{MARK}\nfirst")
    for n in range(130):
        github.add_comment(REPOSITORY, 7, f"{MARK}\nduplicate {n}")
    assert upsert(client).posted
    assert list(github.comments) == [first]
    assert texts(github) == [BODY]


@pytest.mark.parametrize(
    ("body", "login"),
    [
        (f"{MARK}\nquoted by a person", "mallory"),
        (f"{MARK}\nby another bot", "other[bot]"),
        (f"> {MARK}\nour own, quoting", "github-actions[bot]"),
        ("<!-- trt-action:comment id=other -->\nother id", "github-actions[bot]"),
        ("<!-- trt-action:comment id=default2 -->\nlonger id", "github-actions[bot]"),
    ],
)
def test_foreign_comments_are_left_alone(github: GitHub, client: Client, body: str, login: str) -> None:
    github.add_comment(REPOSITORY, 7, body, login)
    assert upsert(client).reason == "Comment created."
    assert texts(github) == [body, BODY]


@pytest.mark.parametrize("login", ["octocat", "our-app[bot]"])
def test_a_token_of_a_person_or_an_app_finds_its_own(github: GitHub, make_client: MakeClient, login: str) -> None:
    """An App's token may not ask who it is: the author of its first comment tells."""
    github.tokens["pat"] = Identity(login, installation=login.endswith("[bot]"))
    client = make_client("pat")
    upsert(client)
    (first,) = github.comments
    upsert(client, BODY + "more\n", run=Run(51, 1, 2_000))
    assert list(github.comments) == [first]
    assert texts(github) == [BODY + "more\n"]


def test_a_run_of_an_older_head_writes_nothing(github: GitHub, client: Client) -> None:
    github.add_comment(REPOSITORY, 7, f"{MARK}\nnewer")
    result = upsert(client, head="d" * 40)
    assert (result.posted, texts(github)) == (False, [f"{MARK}\nnewer"])
    assert "Stale: #7 is at aaaaaaaaaaaa now, not dddddddddddd." in result.reason


@pytest.mark.parametrize(
    ("there", "posted"),
    [
        (Run(50, 1, 1_000), True),  # another leg of this run
        (Run(50, 2, 2_000), False),  # a repetition of this run
        (Run(51, 1, 2_000), False),
        (Run(51, 1, 900), True),  # a younger run that started before this repetition
        (Run(49, 3, 900), True),
    ],
)
def test_of_two_runs_for_one_head_the_later_stays(github: GitHub, client: Client, there: Run, posted: bool) -> None:
    github.add_comment(REPOSITORY, 7, stamped(there))
    result = upsert(client)
    assert result.posted == posted
    assert texts(github) == ([BODY] if posted else [f"{MARK}\nold"])


def test_the_head_may_move_while_we_post(github: GitHub, client: Client) -> None:
    """What was written for the old head is there; the next run replaces it, whatever its stamp says."""

    def move(seen: Seen) -> None:
        if seen.method == "POST":
            github.pulls[REPOSITORY, 7]["head"]["sha"] = "d" * 40

    github.hooks.append(move)
    assert not upsert(client, run=Run(99, 9, 9_999)).posted
    assert upsert(client, BODY + "new head\n", head="d" * 40).posted
    assert texts(github) == [BODY + "new head\n"]


def test_changes_only_starts_nothing_and_updates_what_is_there(github: GitHub, client: Client) -> None:
    assert not upsert(client, create=False).posted
    assert texts(github) == []
    github.add_comment(REPOSITORY, 7, f"{MARK}\nfailed")
    assert upsert(client, create=False).posted
    assert texts(github) == [BODY]


@pytest.mark.parametrize(
    ("name", "worth"),
    [("passed", True), ("regressed", True), ("inconclusive", True), ("error", True), ("within_noise", False),
     ("no_base", False)],
)  # fmt: skip
def test_what_is_worth_a_comment(name: str, worth: bool) -> None:
    assert comment.worth_starting([samples.within_noise(), samples.ALL[name]()]) == worth


def test_a_read_only_token_is_no_failure(github: GitHub, make_client: MakeClient) -> None:
    github.tokens["fork"] = Identity(write=False)
    result = upsert(make_client("fork"))
    assert not result.posted
    assert "Resource not accessible by integration" in result.reason
    assert texts(github) == []


def test_other_refusals_are_failures(github: GitHub, make_client: MakeClient) -> None:
    with pytest.raises(GitHubError) as caught:
        upsert(make_client("unknown"))
    assert (caught.value.status, caught.value.exit_code) == (401, 12)
    assert "`github-token`" in caught.value.fix
    with pytest.raises(GitHubError, match="HTTP 404"):
        comment.upsert(make_client(), REPOSITORY, 8, "default", BODY, head_sha=HEAD, run=RUN)


@pytest.mark.parametrize("kind", ["reset-before", "reset-after"])
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_answer_never_doubles_the_comment(
    github: GitHub, client: Client, kind: str, method: str, times: int
) -> None:
    if method in ("PATCH", "DELETE"):
        github.add_comment(REPOSITORY, 7, f"{MARK}\nold")
    if method == "DELETE":
        github.add_comment(REPOSITORY, 7, f"{MARK}\nduplicate")
    github.faults.append(Fault(method, "comments", kind, times=times))  # type: ignore[arg-type]
    assert upsert(client).posted
    assert texts(github) == [BODY]
    posts = [seen for seen in github.seen if seen.method == "POST"]
    assert len(posts) <= (times + 1 if kind == "reset-before" else 1)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_recovers_is_waited_for(github: GitHub, client: Client, method: str, status: int) -> None:
    if method == "PATCH":
        github.add_comment(REPOSITORY, 7, f"{MARK}\nold")
    github.faults.append(Fault(method, "comments", status=status, headers={"Retry-After": "3"}, times=2))
    assert upsert(client).posted
    assert texts(github) == [BODY]


@pytest.mark.parametrize("there", [0, 1, 3])
def test_racing_jobs_leave_exactly_one_comment(github: GitHub, make_client: MakeClient, there: int) -> None:
    for n in range(110):
        github.add_comment(REPOSITORY, 7, f"remark {n}", "ada")
    for n in range(there):
        github.add_comment(REPOSITORY, 7, f"{MARK}\nold {n}")
    legs = 20
    start = threading.Barrier(legs)
    looked = threading.Barrier(legs)
    if there == 0:
        arrived: set[str] = set()

        def meet(seen: Seen) -> None:
            """Every leg has looked and found nothing before the first one posts: the worst case."""
            if seen.method == "POST" and seen.body["body"] not in arrived:
                arrived.add(seen.body["body"])
                looked.wait(30)

        github.hooks.append(meet)
    results: list[CommentResult] = []
    failures: list[BaseException] = []

    def leg(n: int) -> None:
        try:
            client = make_client()
            start.wait(30)
            results.append(upsert(client, f"{BODY}leg {n}\n"))
        except BaseException as error:  # noqa: BLE001 - a thread's failure is shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=leg, args=(n,)) for n in range(legs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    own = [body for body in texts(github) if body.startswith(MARK)]
    assert len(own) == 1
    assert own[0] in {f"{BODY}leg {n}\n" for n in range(legs)}
    assert len(results) == legs
    assert all(result.posted for result in results)
    assert len({result.url for result in results}) == 1
    assert len(texts(github)) == 111


def test_a_body_without_its_marker_is_a_bug(client: Client) -> None:
    with pytest.raises(ValueError, match="marker"):
        comment.upsert(client, REPOSITORY, 7, "default", "hello", head_sha=HEAD, run=RUN)
    with pytest.raises(ValueError, match="characters"):
        upsert(client, BODY + "x" * comment.MAX_CHARACTERS)


@pytest.mark.parametrize(
    ("env", "run"),
    [
        ({"GITHUB_RUN_ID": "17", "GITHUB_RUN_ATTEMPT": "2"}, Run(17, 2, 1_234)),
        ({}, Run(0, 1, 1_234)),
        ({"GITHUB_RUN_ID": "-1 -->", "GITHUB_RUN_ATTEMPT": "9" * 30}, Run(0, 1, 1_234)),
    ],
)
def test_the_run_that_the_runner_names(env: dict[str, str], run: Run) -> None:
    assert comment.run_of(env, 1_234.5) == run
