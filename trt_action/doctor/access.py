"""Logins: what GitHub's token may do, and whether the registry takes the login."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from trt_action.doctor.line import Check, line, refused
from trt_action.errors import GitHubError, RegistryError, TrtActionError

TOKENS = ("INPUT_GITHUB-TOKEN", "GITHUB_TOKEN", "GH_TOKEN")
PASSWORD = "REGISTRY_PASSWORD"  # noqa: S105 - the variable's name
PATIENCE, ATTEMPTS = 20.0, 2
MOST_HOSTS = 5

ENOUGH = ("repo", "public_repo")
"""Scopes of a classic token with which comments, checks and statuses can be written."""
PACKAGES = "write:packages"
PERMISSIONS = "`permissions: {contents: read, pull-requests: write}` (and `packages: write` to publish)"


def token_lines(env: Mapping[str, str]) -> Iterator[Check]:
    """Reads, and writes nothing: what a token may write GitHub tells of classic ones only."""
    name = next((name for name in TOKENS if env.get(name, "").strip()), None)
    if name is None:
        yield line("github token", "green", f"none in {TOKENS[1]}: only comments, checks and private bases need one")
        return
    try:
        import requests

        from trt_action.github.api import Client
    except ImportError:
        yield line("github token", "amber", "not tried: a library is missing", "`pip install 'trt-action[action]'`")
        return
    repository = env.get("GITHUB_REPOSITORY", "").strip()
    path = f"/repos/{repository}/pulls" if repository else "/user"
    headers: dict[str, str] = {}
    with requests.Session() as session:
        # The client gives what GitHub says; scopes stand beside it.
        session.hooks["response"].append(lambda answer, *_, **__: headers.update(answer.headers))
        token = SecretStr(env[name].strip())
        api = env.get("GITHUB_API_URL", "")
        try:
            client = Client(session, api, token, patience=PATIENCE, attempts=ATTEMPTS)
            client.get(path, **({"per_page": 1} if repository else {}))
        except GitHubError as error:
            yield _refused_token(error, repository)
            return
    yield from _token(headers, repository)


def _refused_token(error: GitHubError, repository: str) -> Check:
    if error.status == 401:
        return line("github token", "red", "not accepted: mistyped, expired or revoked", "Make a new one.")
    if error.status == 403 and not repository:  # an installation's token has no user
        return line("github token", "green", "a token of a workflow or an app; GITHUB_REPOSITORY is not set")
    if error.status in (403, 404) and repository:
        return line(
            "github token", "amber", f"it does not see pull requests of {repository}", f"Give it {PERMISSIONS}."
        )
    return refused("github token", error, "amber", "Check GITHUB_API_URL and the network.")


def _token(headers: Mapping[str, str], repository: str) -> Iterator[Check]:
    seen = f"reads pull requests of {repository}" if repository else "accepted"
    expires = headers.get("GitHub-Authentication-Token-Expiration", "")
    if expires:
        seen += f", until {expires}"
    if "X-OAuth-Scopes" not in headers:
        yield line("github token", "green", f"{seen}; what it may write only writing tells: it needs {PERMISSIONS}")
        return
    scopes = [scope.strip() for scope in headers["X-OAuth-Scopes"].split(",") if scope.strip()]
    found = f"{seen}; scopes: {', '.join(scopes) or 'none'}"
    if not set(scopes) & set(ENOUGH):
        fix = "Give it the scope `repo` (public repositories: `public_repo`), or use the job's own token."
        yield line("github token", "amber", f"{found}: it cannot comment", fix)
        return
    packages = "" if PACKAGES in scopes else f" (images on GitHub's registry need `{PACKAGES}`)"
    yield line("github token", "green", found + packages)


def registry_lines(
    host: str | None, username: str | None, env: Mapping[str, str], ca: Path | None, insecure: bool | None
) -> Iterator[Check]:
    """With a host: asks it, as the login that a publishing would use. Without: which logins there are."""
    try:
        import requests

        from trt_action.publish import credentials
        from trt_action.publish.reference import DOCKER_HUB, DOCKER_HUB_API
        from trt_action.publish.registry import Registry
    except ImportError:
        yield line("registry", "amber", "not tried: a library is missing", "`pip install 'trt-action[publish]'`")
        return
    if host is None:
        yield _known_hosts(credentials.hosts(env))
        return
    name = f"registry {host}"
    try:
        login = credentials.find(host, username, env.get(PASSWORD) if username else None, env)
        with requests.Session() as session:
            api = DOCKER_HUB_API if host == DOCKER_HUB else host
            asked = Registry(
                session,
                api,
                credentials=login,
                ca=ca,
                insecure=insecure,
                patience=PATIENCE,
                attempts=ATTEMPTS,
            ).ping()
    except RegistryError as error:
        yield refused(name, error, "red", "Check the registry's name and the network.")
    except TrtActionError as error:
        yield refused(name, error, "red", f"`docker login {host}`")
    else:
        yield _logged_in(name, host, login.username if login else None, asked)


def _logged_in(name: str, host: str, username: str | None, asked: bool) -> Check:
    if not asked:
        return line(name, "green", "answers, and asks nobody who they are")
    if username is None:
        found = "answers, without a login: pushing usually needs one"
        return line(name, "amber", found, f"`docker login {host}`, or `--username` with {PASSWORD}.")
    return line(name, "green", "accepts the login; whether it may push there only pushing tells", private=username)


def _known_hosts(hosts: list[str]) -> Check:
    if not hosts:
        return line("registry", "green", "no login in Docker's config; `--registry HOST` tries one")
    more = f" and {len(hosts) - MOST_HOSTS} more" if len(hosts) > MOST_HOSTS else ""
    shown = ", ".join(hosts[:MOST_HOSTS]) + more
    return line("registry", "green", f"logins for {shown}; `--registry HOST` tries one")
