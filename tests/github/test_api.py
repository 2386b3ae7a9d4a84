"""The client: what is retried and for how long, pages, redirects, and a token that nobody else sees."""

from __future__ import annotations

import email.utils
import socket
import traceback
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from tests.doubles.github.server import Fault, GitHub, Identity, serve
from tests.github.conftest import HEAD, REPOSITORY, TOKEN, MakeClient, Time
from trt_action.errors import GitHubError, SettingsError
from trt_action.github.api import Client

PULL = f"/repos/{REPOSITORY}/pulls/7"
COMMENTS = f"/repos/{REPOSITORY}/issues/7/comments"


@pytest.mark.parametrize("token", ["ghp_a\nb", "ghp_a b", "ghp_ä", "ghp_a\r"])
def test_a_token_that_no_header_takes_is_refused_unseen(token: str) -> None:
    with requests.Session() as session, pytest.raises(SettingsError, match="holds a character") as caught:
        Client(session, "http://127.0.0.1:9", SecretStr(token))
    assert "ghp_a" not in "".join(traceback.format_exception(caught.value))
    assert "ghp_ä" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "slept"),
    [
        (Fault("GET", "pulls", status=500, times=3), [1, 2, 4]),
        (Fault("GET", "pulls", status=502, times=6), [1, 2, 4, 8, 16, 30]),
        (Fault("GET", "pulls", status=503, headers={"Retry-After": "7"}), [7]),
        (Fault("GET", "pulls", status=429, headers={"Retry-After": "9"}, times=2), [9, 9]),
        (Fault("GET", "pulls", status=429), [60]),
        (Fault("GET", "pulls", status=429, headers={"Retry-After": email.utils.formatdate(1_030, usegmt=True)}), [30]),
        (Fault("GET", "pulls", status=403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1020"}), [21]),
        (Fault("GET", "pulls", status=403, message="You have exceeded a secondary rate limit."), [60]),
        (Fault("GET", "pulls", status=429, headers={"Retry-After": "soon"}), [60]),
        (Fault("GET", "pulls", "reset-before", times=2), [1, 2]),
        (Fault("GET", "pulls", "reset-after"), [1]),
    ],
)
def test_what_passes_is_waited_for(
    github: GitHub, client: Client, time: Time, log: list[str], fault: Fault, slept: list[float]
) -> None:
    github.faults.append(fault)
    assert client.get(PULL)["number"] == 7
    assert time.slept == slept
    assert len(log) == len(slept)
    assert f"again in {slept[0]} s (GET {PULL})" in log[0]


@pytest.mark.parametrize(
    ("fault", "says", "requests_made"),
    [
        (Fault("GET", "pulls", status=502, times=99), "HTTP 502, Injected (tried again in vain)", 7),
        (Fault("GET", "pulls", status=429, headers={"Retry-After": "3000"}, times=99), "wait 3000 s more", 1),
        (Fault("GET", "pulls", status=403), "HTTP 403, Injected", 1),
        (
            Fault("GET", "pulls", status=422, data={"message": "No", "errors": [{"field": "a", "code": "b"}]}),
            "No; a b",
            1,
        ),
        (Fault("GET", "pulls", status=404, data={"message": "::error::\x1b[31mfake"}), ": :error: :", 1),
        (Fault("GET", "pulls", status=410, data=["odd"]), "HTTP 410", 1),
        (Fault("GET", "pulls", "reset-before", times=99), "the connection broke", 7),
    ],
)
def test_what_does_not_pass_is_told(
    github: GitHub, client: Client, fault: Fault, says: str, requests_made: int
) -> None:
    github.faults.append(fault)
    with pytest.raises(GitHubError) as caught:
        client.get(PULL)
    assert says in caught.value.what
    assert f"GET {PULL}" in caught.value.what
    assert caught.value.fix
    assert len(github.seen) == requests_made


def test_patience_ends_a_call(github: GitHub, make_client: MakeClient, time: Time) -> None:
    github.faults.append(Fault("GET", "pulls", status=503, headers={"Retry-After": "40"}, times=99))
    with pytest.raises(GitHubError):
        make_client(patience=100.0).get(PULL)
    assert time.slept == [40, 40]


def test_a_post_is_not_repeated_blindly(github: GitHub, client: Client) -> None:
    github.faults.append(Fault("POST", "comments", "reset-after"))
    with pytest.raises(GitHubError, match="broke"):
        client.post(COMMENTS, {"body": "hello"})
    assert github.bodies(REPOSITORY, 7) == ["hello"]
    github.faults.append(Fault("POST", "comments", status=429, times=2))
    client.post(COMMENTS, {"body": "refused twice, so it is safe"})
    assert len(github.comments) == 2


def test_no_connection_at_all(make_client: MakeClient, time: Time) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(GitHubError, match="no connection") as caught:
        make_client(url=url).post("/x", {})
    assert caught.value.status == 0
    assert len(time.slept) == 6  # a request that surely did not arrive may be repeated


def test_a_slow_answer_is_cut(github: GitHub, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_action.rest.READ_SECONDS", 0.05)
    monkeypatch.setattr("trt_action.rest.MIN_READ_SECONDS", 0.05)
    github.faults.append(Fault("GET", "pulls", "slow", seconds=0.5))
    assert make_client().get(PULL)["number"] == 7
    assert [seen.path for seen in github.seen] == [PULL, PULL]


def test_an_answer_without_end_is_cut(github: GitHub, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_action.rest.MAX_BYTES", 1_000)
    with pytest.raises(GitHubError, match="too large"):
        client.get(PULL)


def test_every_page_is_read(github: GitHub, client: Client) -> None:
    for n in range(257):
        github.add_comment(REPOSITORY, 7, str(n), "ada")
    assert [one["body"] for one in client.paginate(COMMENTS)] == [str(n) for n in range(257)]
    assert [seen.query for seen in github.seen] == [
        {"per_page": "100"}, {"per_page": "100", "page": "2"}, {"per_page": "100", "page": "3"},
    ]  # fmt: skip


def test_redirects_and_pages_stay_on_the_host(github: GitHub, client: Client) -> None:
    github.faults.append(Fault("GET", "/repos/old/", status=301, headers={"Location": github.url + PULL}))
    assert client.get("/repos/old/name/pulls/7")["number"] == 7
    with serve() as thief:
        thief.tokens[TOKEN] = Identity()
        elsewhere = thief.url + PULL
        github.faults.append(Fault("GET", "pulls", status=307, headers={"Location": elsewhere}))
        with pytest.raises(GitHubError, match="another host"):
            client.get(PULL)
        link = {"Link": f'<{elsewhere}>; rel="next"'}
        github.faults.append(Fault("GET", "comments", status=200, data=[{}], headers=link))
        with pytest.raises(GitHubError, match="another host"):
            list(client.paginate(COMMENTS))
        assert thief.seen == []
    loop = {"Location": github.url + PULL}
    github.faults.append(Fault("GET", "pulls", status=302, headers=loop, times=9))
    with pytest.raises(GitHubError, match="too many redirects"):
        client.get(PULL)


def test_enterprise_server_and_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(prefix="/api/v3") as github, requests.Session() as session:
        github.tokens[TOKEN] = Identity()
        github.add_pull(REPOSITORY, 7, HEAD)
        client = Client(session, github.url + "/", SecretStr(TOKEN))
        assert client.get(PULL)["number"] == 7
        assert github.seen[0].path == f"/api/v3{PULL}"
        assert github.seen[0].headers["Accept"] == "application/vnd.github+json"
        assert github.violations == []


@pytest.mark.parametrize("url", ["ftp://x", "api.github.com", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="GITHUB_API_URL"):
        Client(requests.Session(), url, None)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "pulls", status=401, message=f"Bad credentials {TOKEN}"),
        Fault("GET", "pulls", status=500, message=f"Token {TOKEN}", times=9),
        Fault("GET", "pulls", "reset-before", times=9),
        Fault("GET", "pulls", status=307, headers={"Location": f"https://evil.invalid/{TOKEN}"}),
    ],
)
def test_the_token_shows_nowhere(
    github: GitHub,
    client: Client,
    fault: Fault,
    log: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    github.faults.append(fault)
    with pytest.raises(GitHubError) as caught:
        client.get(PULL)
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    shown = [repr(client), *log, caplog.text, *capfd.readouterr(), *map(repr, chain)]
    shown += [f"{caught.value.what} {caught.value.why} {caught.value.fix}", *(str(vars(one)) for one in chain)]
    shown += ["".join(traceback.TracebackException.from_exception(one).format()) for one in chain]
    assert not [text for text in shown if TOKEN in text]
