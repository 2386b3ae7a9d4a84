"""Logins: the caller's own, Docker's config, its helpers; secrets in no text."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from trt_action.errors import SettingsError
from trt_action.publish.credentials import Credentials, find

CANARY = "canary-71c0ffee"
HUB = "https://index.docker.io/v1/"


def packed(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def config(folder: Path, content: object) -> dict[str, str]:
    """An environment whose Docker config holds `content`."""
    folder.joinpath("config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {"DOCKER_CONFIG": str(folder), "PATH": str(folder)}


def helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


def test_a_named_login_wins_and_hides_its_password(tmp_path: Path) -> None:
    env = config(tmp_path, {"auths": {"r.io": {"auth": packed("file", "other")}}})
    login = find("r.io", "me", CANARY, env)
    assert login == Credentials("me", SecretStr(CANARY))
    assert CANARY not in repr(login) + str(login)
    assert packed("me", CANARY) in login.basic()


@pytest.mark.parametrize(("username", "password"), [("me", ""), ("", CANARY), ("a:b", CANARY), ("a\nb", CANARY)])
def test_half_a_login_is_refused(username: str, password: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find("r.io", username, password, {})
    assert CANARY not in str(caught.value) + caught.value.why + caught.value.fix


@pytest.mark.parametrize(
    ("host", "content", "expected"),
    [
        ("r.io", {"auths": {"r.io": {"auth": packed("u", "p:q")}}}, Credentials("u", SecretStr("p:q"))),
        ("r.io", {"auths": {"https://r.io/v2/": {"auth": packed("u", "p")}}}, Credentials("u", SecretStr("p"))),
        ("r.io", {"auths": {"r.io": {"username": "u", "password": "p"}}}, Credentials("u", SecretStr("p"))),
        ("r.io", {"auths": {"r.io": {"auth": packed("u", ""), "identitytoken": "t"}}}, Credentials("u", SecretStr("t"), identity=True)),
        ("docker.io", {"auths": {HUB: {"auth": packed("u", "p")}}}, Credentials("u", SecretStr("p"))),
        ("registry-1.docker.io", {"auths": {HUB: {"auth": packed("u", "p")}}}, Credentials("u", SecretStr("p"))),
        ("r.io", {"auths": {"r.io:443": {"auth": packed("u", "p")}, "evil.r.io": {"auth": packed("u", "p")}}}, None),
        ("r.io", {"auths": {"r.io": {}}}, None),
        ("r.io", {"auths": []}, None),
        ("r.io", {}, None),
        ("r.io", "", None),
    ],
)  # fmt: skip
def test_dockers_config(tmp_path: Path, host: str, content: object, expected: Credentials | None) -> None:
    assert find(host, None, None, config(tmp_path, content)) == expected


def test_where_the_config_is(tmp_path: Path) -> None:
    content = {"auths": {"r.io": {"auth": packed("u", "p")}}}
    (tmp_path / ".docker").mkdir()
    config(tmp_path / ".docker", content)
    assert find("r.io", None, None, {"HOME": str(tmp_path)})
    assert find("r.io", None, None, {"DOCKER_AUTH_CONFIG": json.dumps(content)})
    assert find("r.io", None, None, {}) is None
    assert find("r.io", None, None, {"HOME": str(tmp_path / "none")}) is None


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 10_000, {"auths": {"r.io": {"auth": f"{CANARY}!"}}}])
def test_a_damaged_config_is_told_without_its_content(tmp_path: Path, content: object) -> None:
    with pytest.raises(SettingsError) as caught:
        find("r.io", None, None, config(tmp_path, content))
    assert CANARY not in caught.value.what + caught.value.why
    assert "docker login" in caught.value.fix


def test_a_helper_is_asked_for_the_host_alone(tmp_path: Path) -> None:
    helper(tmp_path, "vault", f'read server; echo "$server" >> {tmp_path}/asked; test "$INPUT_X" = "" || exit 3\n'
           f'echo \'{{"ServerURL":"r.io","Username":"u","Secret":"{CANARY}"}}\'')  # fmt: skip
    env = config(tmp_path, {"credHelpers": {"r.io": "vault"}, "auths": {"r.io": {"auth": packed("x", "y")}}})
    login = find("r.io", None, None, {**env, "INPUT_X": "of the job"})
    assert login == Credentials("u", SecretStr(CANARY))
    assert (tmp_path / "asked").read_text() == "r.io\n"
    assert find("other.io", None, None, env) is None


def test_a_store_gives_identity_tokens_and_may_know_nothing(tmp_path: Path) -> None:
    helper(tmp_path, "store", f'read server; test "$server" = "{HUB}" || {{ echo "credentials not found"; exit 1; }}\n'
           'echo \'{"Username":"<token>","Secret":"abc"}\'')  # fmt: skip
    env = config(tmp_path, {"credsStore": "store", "auths": {"r.io": {"auth": packed("x", "y")}}})
    assert find("docker.io", None, None, env) == Credentials("<token>", SecretStr("abc"), identity=True)
    assert find("r.io", None, None, env) == Credentials("x", SecretStr("y"))


@pytest.mark.parametrize("name", ["gone", "../../bin/sh", "a;touch x", "", 3])
def test_a_helper_that_is_none(tmp_path: Path, name: object) -> None:
    env = config(tmp_path, {"credHelpers": {"r.io": name}})
    if not name:
        assert find("r.io", None, None, env) is None
        return
    with pytest.raises(SettingsError):
        find("r.io", None, None, env)
    assert not list(tmp_path.glob("x"))


def test_a_helper_that_talks_nonsense(tmp_path: Path) -> None:
    helper(tmp_path, "odd", f"echo {CANARY}")
    with pytest.raises(SettingsError) as caught:
        find("r.io", None, None, config(tmp_path, {"credsStore": "odd"}))
    assert CANARY not in caught.value.what
