"""Who we are to a registry: what the caller names, else what Docker's own configuration holds.

Docker's config.json: https://docs.docker.com/reference/cli/docker/login/ ; helpers speak the protocol of
https://github.com/docker/docker-credential-helpers: the server's name on stdin, JSON on stdout.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from trt_action import process
from trt_action.errors import SettingsError
from trt_action.inputs import open_regular, quote
from trt_action.publish.reference import DOCKER_HUB, DOCKER_HUB_API

HELPER_SECONDS = 60.0
MAX_CONFIG_BYTES = 4_000_000
IDENTITY_USER = "<token>"
"""The user name under which a helper gives an identity token instead of a password."""

_HUB_KEYS = ("https://index.docker.io/v1/", DOCKER_HUB, f"index.{DOCKER_HUB}", DOCKER_HUB_API)
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Credentials:
    """A login. `identity`: the secret is a token that is exchanged for access tokens (OAuth 2 refresh token)."""

    username: str
    secret: SecretStr
    identity: bool = False

    def basic(self) -> str:
        """The value of an `Authorization` header. Secret."""
        pair = f"{self.username}:{self.secret.get_secret_value()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


def find(
    host: str, username: str | None, password: SecretStr | str | None, env: Mapping[str, str]
) -> Credentials | None:
    """The login for `host` (as in an image's name): the one that is named, else Docker's (`DOCKER_AUTH_CONFIG`,
    `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, with credential helpers). None: anonymous.

    Raises:
        SettingsError: a name without a password or the reverse, an unreadable config, a helper that is not there.
    """
    if isinstance(password, str):
        password = SecretStr(password)
    if username or password:
        return _named(username or "", password)
    for text, origin in _configs(env):
        config = _parsed(text, origin)
        found = _from_helper(config, host, env) or _from_auths(config, host, origin)
        if found:
            return found
    return None


def hosts(env: Mapping[str, str]) -> list[str]:
    """Hosts that Docker's configuration has a login or a helper for, sorted; no helper is asked.

    Raises:
        SettingsError: an unreadable config.
    """
    found: set[str] = set()
    for text, origin in _configs(env):
        config = _parsed(text, origin)
        for key in ("auths", "credHelpers"):
            known = config.get(key)
            found |= {str(name) for name in known} if isinstance(known, dict) else set()
    return sorted({DOCKER_HUB if name in _HUB_KEYS else re.sub(r"^https?://|/.*$", "", name) for name in found})


def _named(username: str, password: SecretStr | None) -> Credentials:
    if not username or not password or not password.get_secret_value():
        missing = "registry-password" if username else "registry-username"
        raise SettingsError(
            f"The login of the registry is incomplete: `{missing}` is empty.",
            why="In a workflow this usually is a secret that does not exist in this repository, or a run of a fork.",
            fix="Give both `registry-username` and `registry-password`, or neither (then Docker's config is used).",
        )
    if ":" in username or not username.isprintable():
        raise SettingsError(f"`registry-username` is {quote(username)}, which cannot be sent to a registry.")
    return Credentials(username, password)


def _configs(env: Mapping[str, str]) -> list[tuple[bytes, str]]:
    found: list[tuple[bytes, str]] = []
    if env.get("DOCKER_AUTH_CONFIG"):  # GitLab's runners, and Docker's own client since 28
        found.append((env["DOCKER_AUTH_CONFIG"].encode(), "DOCKER_AUTH_CONFIG"))
    folder = env.get("DOCKER_CONFIG") or (str(Path(env["HOME"], ".docker")) if env.get("HOME") else "")
    path = Path(folder, "config.json")
    if folder and path.exists():
        with open_regular(path, noun="Docker config", wrong=SettingsError) as file:
            found.append((file.read(MAX_CONFIG_BYTES), str(path)))
    return found


def _parsed(text: bytes, origin: str) -> dict[str, Any]:
    try:
        config = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise SettingsError(
            f"{quote(origin)} is no JSON object, so it holds no login.",
            fix="Make it again with `docker login`.",
        )
    return config


def _keys(host: str) -> tuple[str, ...]:
    """Under which names Docker keeps the login of a host."""
    if host in (DOCKER_HUB, DOCKER_HUB_API):
        return _HUB_KEYS
    return (host, f"https://{host}", f"https://{host}/", f"http://{host}", f"https://{host}/v1/", f"https://{host}/v2/")


def _from_helper(config: Mapping[str, Any], host: str, env: Mapping[str, str]) -> Credentials | None:
    helpers = config.get("credHelpers")
    chosen = [helpers[key] for key in _keys(host) if key in helpers] if isinstance(helpers, dict) else []
    name = chosen[0] if chosen else config.get("credsStore")
    if not name:
        return None
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise SettingsError(f"Docker's config names the credential helper {quote(name)}, which is no program's name.")
    server = _HUB_KEYS[0] if host in _HUB_KEYS else host
    answer = _ask(f"docker-credential-{name}", server, env)
    if answer is None:
        return None
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        return None
    return Credentials(username, SecretStr(secret), identity=username == IDENTITY_USER)


def _ask(program: str, server: str, env: Mapping[str, str]) -> dict[str, Any] | None:
    path = shutil.which(program, path=env.get("PATH", ""))
    if path is None:
        raise SettingsError(
            f"Docker's config keeps the login in the credential helper `{program}`, which is not on PATH.",
            fix="Install it, or give `registry-username` and `registry-password`.",
        )
    try:
        done = subprocess.run(
            [path, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_SECONDS,
            check=False,
            env=process.without_secrets(env),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "gave no answer in time" if isinstance(error, subprocess.TimeoutExpired) else "cannot be started"
        raise SettingsError(f"The credential helper `{program}` {reason}.") from None
    if done.returncode != 0:  # its words go to stdout, and may hold anything: they are not repeated
        return None
    try:
        answer = json.loads(done.stdout)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise SettingsError(f"The credential helper `{program}` did not answer with JSON.")
    return answer


def _from_auths(config: Mapping[str, Any], host: str, origin: str) -> Credentials | None:
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    for key in _keys(host):
        entry = auths.get(key)
        if isinstance(entry, dict) and (found := _from_entry(entry, host, origin)):
            return found
    return None


def _from_entry(entry: Mapping[str, Any], host: str, origin: str) -> Credentials | None:
    username, password, packed = entry.get("username"), entry.get("password"), entry.get("auth")
    if isinstance(packed, str) and packed:
        try:
            pair = base64.b64decode(packed, validate=True).decode()
        except (binascii.Error, ValueError):
            pair = ""
        username, colon, password = pair.partition(":")
        if not colon:
            raise SettingsError(
                f"The login of {quote(host)} in {quote(origin)} is damaged: `auth` is not base64 of `user:password`.",
                fix=f"Make it again with `docker login {host}`.",
            ) from None
    identity = entry.get("identitytoken")
    if isinstance(identity, str) and identity:
        return Credentials(username if isinstance(username, str) else "", SecretStr(identity), identity=True)
    if isinstance(username, str) and username and isinstance(password, str) and password:
        return Credentials(username, SecretStr(password.rstrip("\0")))
    return None
