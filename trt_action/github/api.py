"""GitHub's REST API: its headers, its errors, and when it may be asked again.

Rules for retries: https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api and
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from pydantic import SecretStr

from trt_action import http, rest
from trt_action.errors import GitHubError
from trt_action.rest import Answer

API_URL = "https://api.github.com"
API_VERSION = "2022-11-28"
SECONDARY_LIMIT_SECONDS = 60.0
"""GitHub asks for at least a minute when a secondary limit names no time."""


class Client(rest.Client):
    """Talks to one API as one token (see `rest.Client`).

    Args:
        api_url: `GITHUB_API_URL`, with its path on GitHub Enterprise Server.

    Raises (every method):
        GitHubError: refused, or not answered in time; `status` is the HTTP status (0: no answer).
    """

    def __init__(self, session: requests.Session, api_url: str, token: SecretStr | None, **how: Any) -> None:
        super().__init__(DIALECT, session, api_url or API_URL, token, **how)


def _message(data: Any) -> str:
    """What GitHub says, for a person. Foreign text."""
    if not isinstance(data, dict):
        return ""
    errors = data.get("errors")
    details = [_detail(one) for one in errors[:3]] if isinstance(errors, list) else []
    return "; ".join(part for part in (str(data.get("message") or ""), *details) if part)


def _detail(error: object) -> str:
    if isinstance(error, Mapping):
        return " ".join(str(error[key]) for key in ("resource", "field", "code", "message") if error.get(key))
    return str(error)


def _wait(got: Answer, patience: http.Patience, attempt: int) -> float | None:
    """Seconds until the next try; None where trying again cannot help."""
    named = _named_wait(got.headers, patience)
    if got.status in (403, 429):
        if named is not None:
            return named
        secondary = "rate limit" in _message(got.data).lower() or got.status == 429
        return SECONDARY_LIMIT_SECONDS * 2 ** (attempt - 1) if secondary else None
    if got.status >= 500 or got.status == 408:
        backoff = patience.backoff(attempt)
        return backoff if named is None else max(named, backoff)
    return None


def _named_wait(headers: Mapping[str, str], patience: http.Patience) -> float | None:
    """What `Retry-After` (seconds or a date) or an exhausted rate limit asks for."""
    after = patience.retry_after(headers)
    if after is not None:
        return after
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if headers.get("X-RateLimit-Remaining", "").strip() == "0" and reset.isascii() and reset.isdigit():
        return max(0.0, float(reset[:12]) - patience.now()) + 1.0
    return None


DIALECT = rest.Dialect(
    name="GitHub",
    variable="GITHUB_API_URL",
    headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": API_VERSION},
    token=lambda secret: ("Authorization", f"Bearer {secret}"),
    error=GitHubError,
    message=_message,
    wait=_wait,
    fixes={
        401: "Check `github-token`: it is missing, expired or revoked.",
        403: "Give the job `permissions: {contents: read, pull-requests: write}`; forks and Dependabot get a read-only "
        "token (see README, Forks).",
        404: "Check the repository's name, and whether `github-token` may see it.",
    },
)
