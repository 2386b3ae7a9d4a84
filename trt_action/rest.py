"""A JSON API over a session that is passed in: retries, pages, time limits, and a token that stays hidden.

What differs between hosts is a `Dialect`; which host it is, a room further up the story says (`github.api`, `gitlab.api`).
`requests` is imported where it is used: the ground floor starts without it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin, urlsplit

from trt_action import __version__, http
from trt_action.console import clean
from trt_action.errors import SettingsError, TrtActionError

if TYPE_CHECKING:
    import requests
    from pydantic import SecretStr

PER_PAGE = 100
MAX_PAGES = 100
MAX_BYTES = 32_000_000
MAX_REDIRECTS = 3
CONNECT_SECONDS, READ_SECONDS, MIN_READ_SECONDS = 10.0, 30.0, 1.0

Sent = Callable[[], Any | None]
"""Looks whether an earlier POST took effect after all: what it made, or None."""


@dataclass(frozen=True)
class Answer:
    """What came back. `data` is parsed JSON, None if it was none. Foreign."""

    status: int
    headers: Mapping[str, str]
    data: Any
    next_url: str | None = None


class Refusal(Protocol):
    """Makes the host's own error. `status` is the HTTP status (0: no answer)."""

    def __call__(self, what: str, *, why: str = "", fix: str = "", status: int = 0) -> TrtActionError: ...


@dataclass(frozen=True)
class Dialect:
    """How one host speaks.

    Args:
        name: for people, e.g. `GitHub`.
        variable: where the address of its API comes from, e.g. `GITHUB_API_URL`.
        headers: of every request.
        token: the header that carries a token: its name and its value.
        error: makes the host's own error.
        message: what the host says in an answer's data, for a person.
        wait: seconds that an answer asks to wait before the next try (from its number on); None where trying again
            cannot help.
        fixes: the next step for a reader, by HTTP status.
    """

    name: str
    variable: str
    headers: Mapping[str, str]
    token: Callable[[str], tuple[str, str]]
    error: Refusal
    message: Callable[[Any], str]
    wait: Callable[[Answer, http.Patience, int], float | None]
    fixes: Mapping[int, str]


class Client:
    """Talks to one API as one token. Paths start with `/`; answers are parsed JSON.

    Args:
        session: connections; its own headers and cookies are left alone.
        api_url: with its path, without a slash at its end.
        sleep, clock, now, jitter: time and chance, passed in for tests. `now` is wall-clock seconds since 1970.
        patience: seconds that one call may take, retries and waits included.
        log: told about each wait.

    Raises (every method):
        the dialect's error: refused, or not answered in time; `status` is the HTTP status (0: no answer).
    """

    def __init__(
        self,
        dialect: Dialect,
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
        self._dialect = dialect
        self._session = session
        self._api_url = api_url.rstrip("/")
        self._secret = token.get_secret_value() if token else ""
        self._patience = http.Patience(
            patience, attempts, sleep, clock, now, jitter, log=lambda text: log(self._redacted(text))
        )
        if urlsplit(self._api_url).scheme not in ("http", "https") or not urlsplit(self._api_url).hostname:
            raise SettingsError(
                f"{dialect.variable} is `{clean(api_url)[:200]}`, which is no http(s) address.",
                fix="The runner sets it; do not override it in the workflow.",
            )
        if not all("!" <= character <= "~" for character in self._secret):  # `http.client` would quote it in its error
            raise SettingsError(
                f"The token for {dialect.name} holds a character that no token has: a space, a line break, or one outside "
                "of ASCII.",
                fix="Set it to the token alone, without quotation marks and line ends.",
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
                raise self._dialect.error(f"GET {path} did not answer with a list.", status=answer.status)
            yield from (one for one in answer.data if isinstance(one, dict))
            url, chosen = answer.next_url, {}
            if url is not None:
                self._check_origin(url, "the next page")
        if url is not None:
            raise self._dialect.error(f"GET {path} has more than {MAX_PAGES} pages.")

    def post(self, path: str, body: Mapping[str, Any], *, sent: Sent | None = None) -> Any:
        """Create something. Where an answer is lost the request may have taken effect: `sent` looks before it is
        repeated, and without `sent` it is not repeated."""
        return self._call("POST", self._api_url + path, body=body, sent=sent).data

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something to a value; doing it twice is the same as once."""
        return self._call("PATCH", self._api_url + path, body=body).data

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """As `patch`, where the host says PUT."""
        return self._call("PUT", self._api_url + path, body=body).data

    def put_bytes(self, path: str, content: bytes) -> None:
        """Store a file under `path`; doing it twice is the same as once."""
        self._call("PUT", self._api_url + path, body=content)

    def delete(self, path: str) -> None:
        """Remove something. After a lost answer the repetition finds nothing: 404."""
        self._call("DELETE", self._api_url + path)

    def _call(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        sent: Sent | None = None,
    ) -> Answer:
        tries = self._patience.tries()
        while True:
            got = self._send(method, url, params, body, tries.deadline)
            if isinstance(got, Answer) and got.status < 300:
                return got
            wait = self._wait(got, tries.number)
            unsafe = method == "POST" and _may_have_taken_effect(got)
            again = not (unsafe and sent is None) and tries.again(
                wait, f"{self._dialect.name}: {self._words(got)}", f"{method} {urlsplit(url).path}"
            )
            if not again:
                raise self._refused(method, url, got, wait)
            if unsafe and sent is not None and (found := sent()) is not None:
                return Answer(200, {}, found)

    def _send(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None,
        body: Mapping[str, Any] | bytes | None,
        deadline: float,
    ) -> Answer | http.Lost:
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
        body: Mapping[str, Any] | bytes | None,
        deadline: float,
    ) -> Answer | http.Lost:
        import requests

        seconds = max(MIN_READ_SECONDS, min(READ_SECONDS, deadline - self._patience.clock()))
        try:
            with self._session.request(
                method,
                url,
                params=params,
                json=None if isinstance(body, bytes) else body,
                data=body if isinstance(body, bytes) else None,
                headers={**self._dialect.headers, "User-Agent": f"trt-action/{__version__}"},
                auth=self._authorized,
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
                return Answer(response.status_code, response.headers, _parsed(bytes(content)), next_url)
        except requests.RequestException as error:
            return http.lost(error)  # the exception holds the request and its headers: it goes no further

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Given as `auth`, it also keeps requests from reading a `.netrc`."""
        if self._secret:
            name, value = self._dialect.token(self._secret)
            request.headers[name] = value
        return request

    def _wait(self, got: Answer | http.Lost, attempt: int) -> float | None:
        """Seconds until the next try; None where trying again cannot help."""
        if isinstance(got, http.Lost):
            return None if got.final else self._patience.backoff(attempt)
        return self._dialect.wait(got, self._patience, attempt)

    def _check_origin(self, url: str, what: str) -> None:
        """The same scheme, host and port as the API: nobody else gets the token."""
        if http.origin(url) == http.origin(self._api_url):
            return
        name = self._dialect.name
        raise self._dialect.error(
            self._redacted(f"{name}'s answer names {what} on another host ({clean(url)[:100]}); it was not followed."),
            why="The token would have gone there.",
            fix=f"Check {self._dialect.variable}, and what stands between the runner and {name} (a proxy?).",
        )

    def _redacted(self, text: str) -> str:
        """Without the token, should an answer repeat it, also without the word before it (`Basic`)."""
        return text.replace(self._secret.split()[-1], "***") if self._secret else text

    def _words(self, got: Answer | http.Lost) -> str:
        if isinstance(got, http.Lost):
            return got.reason
        message = clean(self._dialect.message(got.data))[:500]
        return f"HTTP {got.status}" + (f", {message}" if message else "")

    def _refused(self, method: str, url: str, got: Answer | http.Lost, wait: float | None) -> TrtActionError:
        what = f"{method} {urlsplit(url).path}: {self._words(got)}"
        if wait is not None and wait > 0:
            what += (
                f" (would have to wait {wait:.0f} s more)"
                if wait > self._patience.seconds
                else " (tried again in vain)"
            )
        status = got.status if isinstance(got, Answer) else 0
        return self._dialect.error(self._redacted(what) + ".", fix=self._dialect.fixes.get(status, ""), status=status)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content.strip() else None
    except (ValueError, RecursionError):
        return None


def _may_have_taken_effect(got: Answer | http.Lost) -> bool:
    """A refusal (4xx) did nothing; a server's failure or a lost answer tells nothing."""
    return got.arrived if isinstance(got, http.Lost) else got.status >= 500
