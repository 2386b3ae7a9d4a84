"""Docker's engine, GitHub's token and a registry's login: the real engine, the real registry, a strict GitHub."""

from __future__ import annotations

import base64
import gc
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles import registry
from tests.doubles.github.server import Fault, GitHub, Identity, serve
from tests.doubles.registry import PASSWORD, USER, Running
from trt_action.doctor import access, docker
from trt_action.doctor.gpus import Seen
from trt_action.doctor.line import Check, guarded

TOKEN = "ghp_canary0123456789"  # noqa: S105 - the double's own
REPOSITORY = "acme/models"


@pytest.mark.docker
def test_the_engine_of_this_host() -> None:
    if subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("no Docker engine answers")
    found = {check.name: check for check in docker.lines(Seen(False), True, os.environ)}
    assert found["docker"].status == "green"
    runtimes = subprocess.run(
        ["docker", "info", "--format", "{{json .Runtimes}}"], capture_output=True, check=True, timeout=60
    )
    expected = "green" if "nvidia" in json.loads(runtimes.stdout) else "red"
    assert found["docker nvidia runtime"].status == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK leaves its socket open
def test_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    (check,) = docker.lines(Seen(False), True, os.environ)
    assert (check.status, "DOCKER_HOST" in check.fix) == ("amber", True)
    assert str(tmp_path) not in str(check.shareable("/nowhere"))
    gc.collect()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_an_engine_that_this_user_may_not_ask(tmp_path: Path) -> None:
    """In a child that is nobody: root may open every socket."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(stat.S_IRUSR)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o011) if folder != Path("/tmp") else None
        words = _as_nobody(path)
    assert "usermod -aG docker" in docker._no_answer(words, {}).fix


def _as_nobody(path: Path) -> str:
    import errno

    pid_read, pid_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65_534)
        try:
            socket.socket(socket.AF_UNIX).connect(str(path))
        except OSError as error:
            os.write(pid_write, f"{errno.errorcode[error.errno or 0]}: {error.strerror}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(pid_write)
    with os.fdopen(pid_read) as said:
        return said.read()


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    with serve() as double:
        double.add_pull(REPOSITORY, 7, "a" * 40)
        yield double
        assert double.violations == []


def token(github: GitHub, *, repository: str = REPOSITORY, secret: str = TOKEN) -> Check:
    env = {"GITHUB_TOKEN": secret, "GITHUB_API_URL": github.url, "GITHUB_REPOSITORY": repository}
    (check,) = access.token_lines(env)
    assert secret not in repr(check)
    return check


@pytest.mark.parametrize(
    ("who", "repository", "status", "words"),
    [
        (Identity(), REPOSITORY, "green", "only writing tells"),
        (Identity(), "", "green", "of a workflow or an app"),
        (Identity(), "acme/other", "amber", "does not see pull requests of acme/other"),
        (Identity("me", installation=False), "", "green", "accepted"),
        (
            Identity("me", installation=False, scopes="repo, write:packages"),
            REPOSITORY,
            "green",
            "repo, write:packages",
        ),
        (Identity("me", installation=False, scopes="public_repo"), REPOSITORY, "green", "need `write:packages`"),
        (Identity("me", installation=False, scopes="read:user"), REPOSITORY, "amber", "cannot comment"),
        (Identity("me", installation=False, scopes=""), "", "amber", "scopes: none"),
        (None, REPOSITORY, "red", "not accepted"),
    ],
)
def test_a_token(github: GitHub, who: Identity | None, repository: str, status: str, words: str) -> None:
    github.tokens = {TOKEN: who} if who else {}
    check = token(github, repository=repository)
    assert check.status == status
    assert words in check.found
    assert bool(check.fix) == (status != "green")


def test_a_github_in_trouble_and_none_at_all(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "ATTEMPTS", 1)
    github.tokens = {TOKEN: Identity()}
    github.faults.append(Fault("GET", "/pulls", status=500))
    assert token(github).status == "amber"
    (check,) = access.token_lines({"GITHUB_TOKEN": TOKEN, "GITHUB_API_URL": "http://127.0.0.1:9"})
    assert check.status == "amber"
    (check,) = access.token_lines({})
    assert check.status == "green"
    (check,) = guarded("github token", access.token_lines, {"GITHUB_TOKEN": "ghp_\nsecret"})
    assert (check.status, "holds a character that no token has" in check.found) == ("amber", True)
    assert "secret" not in repr(check)
    assert "report" not in check.fix


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if reason := registry.missing():
        pytest.skip(reason)
    with registry.serve(tmp_path_factory.mktemp("locked"), tls=True, login=True) as running:
        yield running


def login(running: Running, username: str | None, password: str = "", **env: str) -> Check:
    variables = {"REGISTRY_PASSWORD": password, **env}
    (check,) = access.registry_lines(running.host, username, variables, running.ca, None)
    assert PASSWORD not in repr(check)
    return check


def test_a_login(locked: Running, tmp_path: Path) -> None:
    right = login(locked, USER, PASSWORD)
    assert (right.status, right.private) == ("green", USER)
    wrong = login(locked, USER, "wrong-canary")
    assert wrong.status == "red"
    assert "did not accept the login" in wrong.found
    assert "wrong-canary" not in repr(wrong)
    assert login(locked, None).status == "red"  # it wants one
    packed = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {locked.host: {"auth": packed}}}))
    assert login(locked, None, DOCKER_CONFIG=str(tmp_path)).status == "green"
    assert login(locked, USER, "").status == "red"


def test_a_registry_that_asks_nobody_and_none_at_all(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ATTEMPTS", 1)
    if reason := registry.missing():
        pytest.skip(reason)
    with registry.serve(tmp_path_factory.mktemp("open")) as running:
        assert "asks nobody" in login(running, USER, "whatever").found
    gone = login(running, None)
    assert gone.status == "red"
    (check,) = access.registry_lines("no host", None, {}, None, None)
    assert check.status == "red"


def test_logins_that_are_there(tmp_path: Path) -> None:
    config = {
        "auths": {"https://index.docker.io/v1/": {}, "ghcr.io": {}, "https://r.example/v2/": {}},
        "credHelpers": {"a.example": "x"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (check,) = access.registry_lines(None, None, {"DOCKER_CONFIG": str(tmp_path)}, None, None)
    assert check.found.startswith("logins for a.example, docker.io, ghcr.io, r.example;")
    (tmp_path / "config.json").write_text("{")
    from trt_action.doctor.line import guarded

    (check,) = guarded("registry", access.registry_lines, None, None, {"DOCKER_CONFIG": str(tmp_path)}, None, None)
    assert check.status == "amber"
