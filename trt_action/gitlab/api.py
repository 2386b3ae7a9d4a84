"""GitLab's REST API v4: its header, its errors, and when it may be asked again.

Rules for retries: https://docs.gitlab.com/security/rate_limits/ (429 names `Retry-After`; a lock that another request
holds is 409).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from pydantic import SecretStr

from trt_action import http, rest
from trt_action.errors import GitLabError, SettingsError
from trt_action.inputs import quote
from trt_action.rest import Answer

RATE_LIMIT_SECONDS = 60.0
"""GitLab counts requests per minute: how long to wait where a 429 names no time."""


class Client(rest.Client):
    """Talks to one instance as one token (see `rest.Client`).

    Args:
        api_url: `CI_API_V4_URL`, with its path.
        ca: certificates (PEM) that vouch for the instance, and no others; None: those that the system trusts.

    Raises (every method):
        GitLabError: refused, or not answered in time; `status` is the HTTP status (0: no answer).
    """

    def __init__(
        self, session: requests.Session, api_url: str, token: SecretStr | None, *, ca: Path | None = None, **how: Any
    ) -> None:
        super().__init__(DIALECT, session, api_url, token, **how)
        if ca is not None:
            session.verify = str(ca)
            session.trust_env = False  # REQUESTS_CA_BUNDLE would win over it


def authority(env: Mapping[str, str]) -> Path | None:
    """The runner's own certificates for this instance (`CI_SERVER_TLS_CA_FILE`: a file's path, or its content where the
    variable was set by hand), if it names a file that is there.

    Raises:
        SettingsError: it names none.
    """
    text = env.get("CI_SERVER_TLS_CA_FILE", "")
    if not text:
        return None
    if not Path(text).is_file():
        raise SettingsError(
            f"CI_SERVER_TLS_CA_FILE is {quote(text)}, and there is no such file.",
            fix="The runner sets it (`tls-ca-file` in its config.toml); a variable of your own must be of type File.",
        )
    return Path(text)


def _message(data: Any) -> str:
    """`message` (a text, or texts by field) or `error`. Foreign text."""
    if not isinstance(data, dict):
        return ""
    said = data.get("message") or data.get("error_description") or data.get("error") or ""
    if isinstance(said, Mapping):
        return "; ".join(f"{field} {_joined(texts)}" for field, texts in list(said.items())[:3])
    return _joined(said)


def _joined(texts: object) -> str:
    return ", ".join(map(str, texts[:3])) if isinstance(texts, list) else str(texts)


def _wait(got: Answer, patience: http.Patience, attempt: int) -> float | None:
    """Seconds until the next try; None where trying again cannot help."""
    named = patience.retry_after(got.headers)
    if got.status == 429:
        return RATE_LIMIT_SECONDS if named is None else named
    if got.status >= 500 or got.status in (408, 409):
        backoff = patience.backoff(attempt)
        return backoff if named is None else max(named, backoff)
    return None


DIALECT = rest.Dialect(
    name="GitLab",
    variable="CI_API_V4_URL",
    headers={"Accept": "application/json"},
    token=lambda secret: ("PRIVATE-TOKEN", secret),
    error=GitLabError,
    message=_message,
    wait=_wait,
    fixes={
        401: "Check TRT_ACTION_GITLAB_TOKEN: the token is wrong, expired or revoked.",
        403: "Give the token the scope `api` and its user at least the role Reporter.",
        404: "Check that the token's user is a member of the project; GitLab hides what it may not see.",
    },
)
