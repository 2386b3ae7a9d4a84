"""The client: what GitLab's answers mean, and a token that nobody else sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from tests.doubles import registry
from tests.doubles.gitlab.server import Fault, GitLab, Identity, serve
from tests.github.conftest import Time
from tests.gitlab.conftest import PROJECT, TOKEN, MakeClient
from trt_action.errors import GitLabError, SettingsError
from trt_action.gitlab import api, status
from trt_action.gitlab.api import Client

REQUEST = f"/projects/{PROJECT}/merge_requests/7"
NOTES = f"{REQUEST}/notes"


@pytest.mark.parametrize(
    ("fault", "slept"),
    [
        (Fault("GET", "merge_requests", status=500, times=3), [1, 2, 4]),
        (Fault("GET", "merge_requests", status=409, times=2), [1, 2]),
        (Fault("GET", "merge_requests", status=429, headers={"Retry-After": "9"}, times=2), [9, 9]),
        (Fault("GET", "merge_requests", status=429), [60]),
        (Fault("GET", "merge_requests", status=503, headers={"Retry-After": "7"}), [7]),
        (Fault("GET", "merge_requests", "reset-before", times=2), [1, 2]),
        (Fault("GET", "merge_requests", "reset-after"), [1]),
    ],
)
def test_what_passes_is_waited_for(
    gitlab: GitLab, client: Client, time: Time, fault: Fault, slept: list[float]
) -> None:
    gitlab.faults.append(fault)
    assert client.get(REQUEST)["iid"] == 7
    assert time.slept == slept


@pytest.mark.parametrize(
    ("fault", "says", "requests_made"),
    [
        (Fault("GET", "merge_requests", status=401), "HTTP 401, Injected", 1),
        (Fault("GET", "merge_requests", status=403, data={"error": "insufficient_scope"}), "insufficient_scope", 1),
        (Fault("GET", "merge_requests", status=404, data={"message": "404 Project Not Found"}), "Project Not Found", 1),
        (Fault("GET", "merge_requests", status=422, data={"message": {"note": ["a", "b"]}}), "note a, b", 1),
        (Fault("GET", "merge_requests", status=400, data={"message": "::error::\x1b[31mfake"}), ": :error: :", 1),
        (Fault("GET", "merge_requests", status=410, data=["odd"]), "HTTP 410", 1),
        (Fault("GET", "merge_requests", status=502, times=99), "tried again in vain", 7),
        (Fault("GET", "merge_requests", status=429, headers={"Retry-After": "3000"}), "wait 3000 s more", 1),
        (Fault("GET", "merge_requests", "reset-before", times=99), "the connection broke", 7),
    ],
)
def test_what_does_not_pass_is_told(
    gitlab: GitLab, client: Client, fault: Fault, says: str, requests_made: int
) -> None:
    gitlab.faults.append(fault)
    with pytest.raises(GitLabError) as caught:
        client.get(REQUEST)
    assert says in caught.value.what
    assert caught.value.fix
    assert len(gitlab.seen) == requests_made
    assert TOKEN not in repr(vars(caught.value)) + repr(client)


def test_a_slow_answer_is_cut(gitlab: GitLab, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_action.rest.READ_SECONDS", 0.05)
    monkeypatch.setattr("trt_action.rest.MIN_READ_SECONDS", 0.05)
    gitlab.faults.append(Fault("GET", "merge_requests", "slow", seconds=0.5))
    assert client.get(REQUEST)["iid"] == 7


def test_every_page_is_read_in_the_order_of_creation(gitlab: GitLab, client: Client) -> None:
    for n in range(257):
        gitlab.add_note(PROJECT, 7, str(n), "ada")
    found = client.paginate(NOTES, sort="asc", order_by="created_at")
    assert [one["body"] for one in found] == [str(n) for n in range(257)]
    assert len(gitlab.seen) == 3


def test_the_token_goes_in_its_own_header_and_to_no_other_host(gitlab: GitLab, client: Client) -> None:
    client.get(REQUEST)
    headers = {name.lower(): value for name, value in gitlab.seen[0].headers.items()}
    assert headers["private-token"] == TOKEN
    assert "authorization" not in headers
    with serve() as thief:
        gitlab.faults.append(Fault("GET", "merge_requests", status=307, headers={"Location": thief.url + REQUEST}))
        with pytest.raises(GitLabError, match="another host"):
            client.get(REQUEST)
        next_page = f'<{thief.url}{NOTES}?page=2>; rel="next"'
        gitlab.faults.append(Fault("GET", "notes", status=200, headers={"Link": next_page}, data=[{"id": 1}]))
        with pytest.raises(GitLabError, match="another host"):
            list(client.paginate(NOTES))
        assert thief.seen == []


def test_an_instance_with_its_own_certificate(tmp_path: Path) -> None:
    ca, certificate, key = registry.certify(tmp_path)
    with serve(certificate=(certificate, key)) as double, requests.Session() as session:
        double.tokens[TOKEN] = Identity()
        double.add_merge_request(PROJECT, 7, "a" * 40)
        found = api.authority({"CI_SERVER_TLS_CA_FILE": str(ca)})
        assert Client(session, double.url, SecretStr(TOKEN), ca=found).get(REQUEST)["iid"] == 7
        with requests.Session() as other, pytest.raises(GitLabError, match="certificate is not accepted"):
            Client(other, double.url, SecretStr(TOKEN)).get(REQUEST)
    assert api.authority({}) is None
    with pytest.raises(SettingsError, match="no such file"):
        api.authority({"CI_SERVER_TLS_CA_FILE": "-----BEGIN CERTIFICATE-----"})


@pytest.mark.parametrize("url", ["", "ftp://gitlab.example/api/v4", "gitlab.example"])
def test_an_address_that_is_none(make_client: MakeClient, url: str) -> None:
    with requests.Session() as session, pytest.raises(SettingsError, match="CI_API_V4_URL"):
        Client(session, url, SecretStr(TOKEN))


def test_a_commit_status_is_set_once_and_told(gitlab: GitLab, client: Client, make_client: MakeClient) -> None:
    sha = "a" * 40
    assert status.publish(client, PROJECT, sha, "failed", "x" * 300, pipeline=1_000) == "Commit status set: failed."
    assert status.publish(client, PROJECT, sha, "failed", "again") == "Commit status is failed already."
    assert status.publish(
        client, PROJECT, sha, "inconclusive", "?", target_url="https://gitlab.example/j/1"
    ).startswith("Commit status set")
    assert [one["status"] for one in gitlab.statuses] == ["failed", "success"]
    gitlab.tokens["reader"] = Identity(scope="read_api")
    assert "may not set" in status.publish(make_client("reader"), PROJECT, sha, "passed", "t")
