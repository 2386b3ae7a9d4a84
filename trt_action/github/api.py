"""GitHub's REST API over a session that is passed in: retries, pages, time limits, and a token that stays hidden.

Rules for retries: https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api and
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from pydantic import SecretStr
from requests.auth import AuthBase

from trt_action import __version__, http
from trt_action.console import clean
from trt_action.errors import GitHubError, SettingsError

API_URL = "https://api.github.com"
API_VERSION = "2022-11-28"
PER_PAGE = 100
MAX_PAGES = 100
MAX_BYTES = 32_000_000
MAX_REDIRECTS = 3
CONNECT_SECONDS, READ_SECONDS, MIN_READ_SECONDS = 10.0, 30.0, 1.0
SECONDARY_LIMIT_SECONDS = 60.0
"""GitHub asks for at least a minute when a secondary limit names no time."""

Sent = Callable[[], Any | None]
"""Looks whether an earlier POST took effect after all: what it made, or None."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    data: Any
    next_url: str | None = None

    def message(self) -> str:
        """What GitHub says, for a person. Foreign text."""
        if not isinstance(self.data, dict):
            return ""
        errors = self.data.get("errors")
        details = [_detail(one) for one in errors[:3]] if isinstance(errors, list) else []
        return clean("; ".join(part for part in (str(self.data.get("message") or ""), *details) if part))[:500]


class _Bearer(AuthBase):
    """Given as `auth`, it also keeps requests from reading a `.netrc`."""

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return request


class Client:
    """Talks to one API as one token. Paths start with `/`; answers are parsed JSON.

    Args:
        session: connections; its own headers and cookies are left alone.
        api_url: `GITHUB_API_URL`, with its path on GitHub Enterprise Server.
        sleep, clock, now, jitter: time and chance, passed in for tests. `now` is wall-clock seconds since 1970.
        patience: seconds that one call may take, retries and waits included.
        log: told about each wait.

    Raises (every method):
        GitHubError: refused, or not answered in time; `status` is the HTTP status (0: no answer).
    """

    def __init__(
        self,
        session: requests.Session,
        api_url: str,
        token: SecretStr | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        patience: float = 300.0,
        attempts: int = 7,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session = session
        self._api_url = (api_url or API_URL).rstrip("/")
        self._auth = _Bearer(token) if token else _anonymous
        self._secret = token.get_secret_value() if token else ""
        self._patience = http.Patience(
            patience, attempts, sleep, clock, now, jitter, log=lambda text: log(self._redacted(text))
        )
        if urlsplit(self._api_url).scheme not in ("http", "https") or not urlsplit(self._api_url).hostname:
            raise SettingsError(
                f"GITHUB_API_URL is `{clean(api_url)[:200]}`, which is no http(s) address.",
                fix="The runner sets it; do not override it in the workflow.",
            )

    def __repr__(self) -> str:
        return f"Client({self._api_url!r})"

    def get(self, path: str, **params: str | int) -> Any:
        """One object, or the first page of a list."""
        return self._call("GET", self._api_url + path, params=params).data

    def paginate(self, path: str, **params: str | int) -> Iterator[dict[str, Any]]:
        """Every object of a list, page after page."""
        url: str | None = self._api_url + path
        chosen: Mapping[str, str | int] = {"per_page": PER_PAGE, **params}
        for _ in range(MAX_PAGES):
            if url is None:
                return
            answer = self._call("GET", url, params=chosen)
            if not isinstance(answer.data, list):
                raise GitHubError(f"GET {path} did not answer with a list.", status=answer.status)
            yield from (one for one in answer.data if isinstance(one, dict))
            url, chosen = answer.next_url, {}
            if url is not None:
                self._check_origin(url, "the next page")
        if url is not None:
            raise GitHubError(f"GET {path} has more than {MAX_PAGES} pages.")

    def post(self, path: str, body: Mapping[str, Any], *, sent: Sent | None = None) -> Any:
        """Create something. Where an answer is lost the request may have taken effect: `sent` looks before it is
        repeated, and without `sent` it is not repeated."""
        return self._call("POST", self._api_url + path, body=body, sent=sent).data

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something to a value; doing it twice is the same as once."""
        return self._call("PATCH", self._api_url + path, body=body).data

    def delete(self, path: str) -> None:
        """Remove something. After a lost answer the repetition finds nothing: 404."""
        self._call("DELETE", self._api_url + path)

    def _call(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        sent: Sent | None = None,
    ) -> _Answer:
        tries = self._patience.tries()
        while True:
            got = self._send(method, url, params, body, tries.deadline)
            if isinstance(got, _Answer) and got.status < 300:
                return got
            wait = self._wait(got, tries.number)
            unsafe = method == "POST" and _may_have_taken_effect(got)
            again = not (unsafe and sent is None) and tries.again(
                wait, f"GitHub: {_words(got)}", f"{method} {urlsplit(url).path}"
            )
            if not again:
                raise self._refused(method, url, got, wait)
            if unsafe and sent is not None and (found := sent()) is not None:
                return _Answer(200, {}, found)

    def _send(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None,
        body: Mapping[str, Any] | None,
        deadline: float,
    ) -> _Answer | http.Lost:
        """One exchange, redirects on the same host included (a renamed repository). Other hosts never get the token."""
        for _ in range(MAX_REDIRECTS + 1):
            got = self._exchange(method, url, params, body, deadline)
            if isinstance(got, http.Lost) or got.status not in (301, 302, 307, 308):
                return got
            url, params = urljoin(url, got.headers.get("Location", "")), None
            self._check_origin(url, "a redirect")
        return http.Lost("too many redirects", final=True)

    def _exchange(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None,
        body: Mapping[str, Any] | None,
        deadline: float,
    ) -> _Answer | http.Lost:
        headers = {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": API_VERSION,
            "User-Agent": f"trt-action/{__version__}",
        }
        seconds = max(MIN_READ_SECONDS, min(READ_SECONDS, deadline - self._patience.clock()))
        try:
            with self._session.request(
                method,
                url,
                params=params,
                json=body,
                headers=headers,
                auth=self._auth,
                timeout=(CONNECT_SECONDS, seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = bytearray()
                for piece in response.iter_content(65_536):
                    content += piece
                    if len(content) > MAX_BYTES or self._patience.clock() > deadline:
                        return http.Lost("the answer is too large or too slow", final=True)
                next_url = response.links.get("next", {}).get("url")
                return _Answer(response.status_code, response.headers, _parsed(bytes(content)), next_url)
        except requests.RequestException as error:
            return http.lost(error)  # the exception holds the request and its headers: it goes no further

    def _wait(self, got: _Answer | http.Lost, attempt: int) -> float | None:
        """Seconds until the next try; None where trying again cannot help."""
        backoff = self._patience.backoff(attempt)
        if isinstance(got, http.Lost):
            return None if got.final else backoff
        named = self._named_wait(got.headers)
        if got.status in (403, 429):
            if named is not None:
                return named
            secondary = "rate limit" in got.message().lower() or got.status == 429
            return SECONDARY_LIMIT_SECONDS * 2 ** (attempt - 1) if secondary else None
        if got.status >= 500 or got.status == 408:
            return backoff if named is None else max(named, backoff)
        return None

    def _named_wait(self, headers: Mapping[str, str]) -> float | None:
        """What `Retry-After` (seconds or a date) or an exhausted rate limit asks for."""
        after = self._patience.retry_after(headers)
        if after is not None:
            return after
        reset = headers.get("X-RateLimit-Reset", "").strip()
        if headers.get("X-RateLimit-Remaining", "").strip() == "0" and reset.isascii() and reset.isdigit():
            return max(0.0, float(reset[:12]) - self._patience.now()) + 1.0
        return None

    def _check_origin(self, url: str, what: str) -> None:
        """The same scheme, host and port as the API: nobody else gets the token."""
        if http.origin(url) == http.origin(self._api_url):
            return
        raise GitHubError(
            self._redacted(f"GitHub's answer names {what} on another host ({clean(url)[:100]}); it was not followed."),
            why="The token would have gone there.",
            fix="Check GITHUB_API_URL, and what stands between the runner and GitHub (a proxy?).",
        )

    def _redacted(self, text: str) -> str:
        """Without the token, should an answer repeat it."""
        return text.replace(self._secret, "***") if self._secret else text

    def _refused(self, method: str, url: str, got: _Answer | http.Lost, wait: float | None) -> GitHubError:
        what = f"{method} {urlsplit(url).path}: {_words(got)}"
        if wait is not None and wait > 0:
            what += (
                f" (would have to wait {wait:.0f} s more)"
                if wait > self._patience.seconds
                else " (tried again in vain)"
            )
        status = got.status if isinstance(got, _Answer) else 0
        return GitHubError(self._redacted(what) + ".", fix=_FIXES.get(status, ""), status=status)


_FIXES = {
    401: "Check `github-token`: it is missing, expired or revoked.",
    403: "Give the job `permissions: {contents: read, pull-requests: write}`; forks and Dependabot get a read-only "
    "token (see README, Forks).",
    404: "Check the repository's name, and whether `github-token` may see it.",
}


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content.strip() else None
    except (ValueError, RecursionError):
        return None


def _detail(error: object) -> str:
    if isinstance(error, Mapping):
        return " ".join(str(error[key]) for key in ("resource", "field", "code", "message") if error.get(key))
    return str(error)


def _words(got: _Answer | http.Lost) -> str:
    if isinstance(got, http.Lost):
        return got.reason
    message = got.message()
    return f"HTTP {got.status}" + (f", {message}" if message else "")


def _may_have_taken_effect(got: _Answer | http.Lost) -> bool:
    """A refusal (4xx) did nothing; a server's failure or a lost answer tells nothing."""
    return got.arrived if isinstance(got, http.Lost) else got.status >= 500
