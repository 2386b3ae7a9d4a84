"""Requests to one registry: scheme, login, redirects, retries, limits, and refusals in words."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote as percent
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from trt_action import __version__, http
from trt_action.console import clean
from trt_action.errors import RegistryError, SettingsError
from trt_action.inputs import quote
from trt_action.publish import oci, refusals
from trt_action.publish.auth import Authenticator
from trt_action.publish.credentials import Credentials
from trt_action.publish.reference import is_host, is_loopback

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
SLOW = 5
"""How many times longer the answer to a `slow` request may take."""

FIRST_TRIES = 4
"""How often a registry is asked that refuses the very first connection, or has no address: one that is just starting comes up
within these 7 to 11 s, a wrong name or port never does."""

MAX_REDIRECTS = 5
PIECE = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)


class Body(Protocol):
    """What is sent: bytes, or something that can be read anew for every try."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Ask:
    """One request. `scopes` as the token specification writes them (`repository:name:pull,push`); `slow`: the registry
    may think about its answer for minutes (it hashes and moves a blob)."""

    method: str
    url: str
    scopes: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Body | None = field(default=None, repr=False)
    slow: bool = False

    def words(self) -> str:
        """For a log: without the query, which may hold what a store has signed."""
        return f"{self.method} {clean(urlsplit(self.url).path)[:300]}"


@dataclass(frozen=True)
class Answer:
    """A whole answer; `url` is where it came from."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str


class _Header(AuthBase):
    """Given as `auth`, it also keeps requests from reading a `.netrc`. Cookies are not sent: who sends Harbor's back is
    taken for a browser, and asked for more."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("Cookie", None)
        if self._value:
            request.headers["Authorization"] = self._value
        return request


class Transport:
    """One registry over a session that is passed in; see `registry.Registry` for the arguments."""

    def __init__(
        self,
        session: requests.Session,
        host: str,
        credentials: Credentials | None,
        ca: Path | None,
        insecure: bool | None,
        patience: http.Patience,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        if not is_host(host):
            raise SettingsError(f"{quote(host)} is no host of a registry.", fix="Write it as `ghcr.io` or `host:5000`.")
        self.host, self.patience, self._read_seconds = host, patience, read_seconds
        self._session, self._insecure = session, insecure
        self._met = False
        self._secrets = (credentials.secret.get_secret_value(), credentials.basic()[6:]) if credentials else ()
        self._auth = Authenticator(credentials, self._ask_token, patience.clock, insecure=bool(insecure))
        self._base = "" if insecure or (insecure is None and is_loopback(host)) else f"https://{host}"
        if ca is not None:
            session.mount("https://", _Trusting(ca))

    @property
    def login_was_asked(self) -> bool:
        """Whether the registry has wanted to know who we are."""
        return self._auth.challenged

    def url(self, path: str) -> str:
        """The address of `path`, which begins with `/v2/`.

        Raises:
            RegistryError: whether it takes http is still to be found out, and nobody listens or no host has that name.
        """
        if not self._base:
            self._base = self._probe()
        return self._base + percent(path, safe="/:")

    def follow(self, answer: Answer) -> str:
        """The address in an answer's `Location`. A registry behind a proxy may call itself http: it is not believed.

        Raises:
            RegistryError: it has none, or one that would leave TLS.
        """
        location = answer.headers.get("Location", "")
        if not location:
            raise RegistryError(f"{self.host} answered HTTP {answer.status} without a `Location`.")
        return self._safe(urljoin(answer.url, location), answer.url)

    def call(self, ask: Ask, accept: Collection[int], *, limit: int = oci.MAX_MANIFEST_BYTES) -> Answer:
        """One request that may be repeated, until an answer is in `accept`.

        Raises:
            RegistryError: refused, or not answered in time.
        """
        tries = self.patience.tries()
        while True:
            got = self.once(ask, limit=limit, deadline=tries.deadline)
            if isinstance(got, Answer) and got.status in accept:
                return got
            wait = self.wait(got, tries.number)
            if not tries.again(wait, self.said(got), ask.words()):
                raise self.refused(ask, got)

    def once(
        self, ask: Ask, *, limit: int = oci.MAX_MANIFEST_BYTES, deadline: float | None = None
    ) -> Answer | http.Lost:
        """One try: login and redirects included, no retries. The answer is read up to `limit` bytes, and until
        `deadline` on the patience's clock."""
        opened = self.open(ask)
        if isinstance(opened, http.Lost):
            return opened
        return self._whole(opened, limit, deadline)

    def open(self, ask: Ask) -> requests.Response | http.Lost:
        """As `once`, with the content still to be read; the caller closes it."""
        got = self._redirected(ask, self._auth.header(ask.scopes))
        if isinstance(got, http.Lost) or got.status_code != 401 or http.origin(got.url) != http.origin(ask.url):
            return got
        try:
            header = self._auth.renew(got.headers.get("WWW-Authenticate", ""), ask.scopes)
        except RegistryError:
            got.close()
            raise
        if header is None:
            return got
        _drain(got)
        return self._redirected(ask, header)

    def wait(self, got: Answer | http.Lost, attempt: int) -> float | None:
        """Seconds until the next try; None where trying again cannot help."""
        backoff = self.patience.backoff(attempt)
        if isinstance(got, http.Lost):
            return None if got.final else backoff
        if got.status in (408, 429) or got.status >= 500:
            return max(self.patience.retry_after(got.headers) or 0.0, backoff)
        return None

    def said(self, got: Answer | http.Lost) -> str:
        """The answer in words, for a log."""
        words = got.reason if isinstance(got, http.Lost) else f"HTTP {got.status}"
        return f"{self.host}: {words}"

    def refused(self, ask: Ask, got: Answer | http.Lost) -> RegistryError:
        """The error that a person gets."""
        if isinstance(got, http.Lost):
            return refusals.lost(self.host, ask.words(), got)
        return refusals.refused(self.host, ask.words(), got.status, got.content, self._redacted)

    def _redacted(self, text: str) -> str:
        """Without the password, should an answer repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _redirected(self, ask: Ask, authorization: str | None) -> requests.Response | http.Lost:
        """One exchange and its redirects. The login goes to the registry alone, never to where it points."""
        url, params = ask.url, ask.params
        for _ in range(MAX_REDIRECTS + 1):
            ours = http.origin(url) == http.origin(self._base)
            got = self._exchange(ask, url, params, authorization if ours else None)
            if isinstance(got, http.Lost) or got.status_code not in _REDIRECTS or ask.method not in ("GET", "HEAD"):
                return got
            location = got.headers.get("Location", "")
            _drain(got)
            url, params = self._safe(urljoin(url, location), url), {}
        return http.Lost("too many redirects", final=True)

    def _exchange(
        self, ask: Ask, url: str, params: Mapping[str, Any], authorization: str | None
    ) -> requests.Response | http.Lost:
        """One exchange; while nobody has answered yet, a few where the connection is refused or the name is unknown."""
        tries = self.patience.tries()
        got = self._sent(ask, url, params, authorization)
        while not self._met and isinstance(got, http.Lost) and (got.refused or got.unknown):
            wait = self.patience.backoff(tries.number) if tries.number < FIRST_TRIES else None
            seen = f"{self.host} refuses the connection" if got.refused else f"no host is called {self.host}"
            first = f"{seen}; it gets a few seconds to start" if tries.number == 1 else ""
            if not tries.again(wait, first, ask.words()):
                return replace(got, final=True)
            got = self._sent(ask, url, params, authorization)
        self._met = self._met or not isinstance(got, http.Lost)
        return got

    def _sent(
        self, ask: Ask, url: str, params: Mapping[str, Any], authorization: str | None
    ) -> requests.Response | http.Lost:
        seconds = self._read_seconds * (SLOW if ask.slow else 1)
        try:
            return self._session.request(
                ask.method,
                url,
                params=params,
                headers={"User-Agent": f"trt-action/{__version__}", "Accept-Encoding": "identity", **ask.headers},
                data=ask.body,
                auth=_Header(authorization),
                timeout=(CONNECT_SECONDS, seconds),
                allow_redirects=False,
                stream=True,
            )
        except requests.RequestException as error:
            return http.lost(error)  # the exception holds the request and its headers: it goes no further

    def _whole(self, opened: requests.Response, limit: int, deadline: float | None) -> Answer | http.Lost:
        """Read the content, and close."""
        content = bytearray()
        with contextlib.closing(opened):
            try:
                for piece in opened.iter_content(65_536):
                    content += piece
                    if len(content) > limit:
                        return http.Lost(f"the answer is larger than {limit} bytes", final=True)
                    if deadline is not None and self.patience.clock() > deadline:
                        return http.Lost("the answer comes too slowly", final=True)
            except requests.RequestException as error:
                return http.lost(error)
        return Answer(opened.status_code, opened.headers, bytes(content), opened.url)

    def _safe(self, url: str, source: str) -> str:
        """`url`, if going there from `source` does not leave TLS."""
        target, came = urlsplit(url), urlsplit(source)
        if target.scheme == "http" and came.scheme == "https" and target.hostname == came.hostname:
            return urlunsplit(target._replace(scheme="https", netloc=came.netloc))
        if target.scheme == "https" or (target.scheme == "http" and came.scheme == "http"):
            return url
        raise RegistryError(
            f"{self.host} points to {quote(target.netloc or url)} without TLS; it was not followed.",
            fix="Check the registry's configuration of its storage and of its own address.",
        )

    def _probe(self) -> str:
        """http or https? Nothing that is secret is sent before it is known."""
        plain = f"http://{self.host}"
        ask = Ask("GET", f"{plain}/v2/")
        one_port = urlsplit(plain).port is not None  # else https has a port of its own, where somebody may listen
        got = self._exchange(ask, ask.url, {}, None) if one_port else self._sent(ask, ask.url, {}, None)
        if isinstance(got, http.Lost) and one_port and (got.refused or got.unknown):
            raise self.refused(ask, got)
        if isinstance(got, http.Lost):
            return f"https://{self.host}"
        got.close()
        return plain if got.status_code in (200, 401) or got.status_code >= 429 else f"https://{self.host}"

    def _ask_token(
        self, method: str, url: str, headers: Mapping[str, str], params: Mapping[str, Any], form: Mapping[str, str]
    ) -> dict[str, Any]:
        """One request to a token server. No redirect is followed: the login was meant for this address."""
        ask = Ask(method, url, headers=headers, params=params)
        tries = self.patience.tries()
        while True:
            got = self._token_once(ask, form, tries.deadline)
            if isinstance(got, Answer) and got.status == 200:
                return oci.parse(got.content, f"The answer of the token server {quote(urlsplit(url).netloc)}")
            if not tries.again(self.wait(got, tries.number), self.said(got), ask.words()):
                raise self.refused(ask, got)

    def _token_once(self, ask: Ask, form: Mapping[str, str], deadline: float) -> Answer | http.Lost:
        headers = {**ask.headers}
        body = None
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = "&".join(f"{key}={percent(value, safe='')}" for key, value in form.items()).encode()
        opened = self._exchange(
            Ask(ask.method, ask.url, headers=headers, body=body),
            ask.url,
            ask.params,
            headers.pop("Authorization", None),
        )
        if isinstance(opened, http.Lost):
            return opened
        return self._whole(opened, oci.MAX_MANIFEST_BYTES, deadline)


def _drain(answer: requests.Response) -> None:
    """Be done with an answer. One that is read to its end leaves its connection for the next request."""
    with contextlib.closing(answer), contextlib.suppress(requests.RequestException, HTTPError, OSError):
        answer.raw.read(65_536)


class _Trusting(HTTPAdapter):
    """Connections that trust the authorities of a file beside the usual ones.

    Raises:
        SettingsError: the file holds no certificates.
    """

    def __init__(self, ca: Path) -> None:
        try:
            self._context = ssl.create_default_context()
            self._context.load_verify_locations(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"The certificates in {quote(ca)} cannot be read: {error.strerror or type(error).__name__}.",
                fix="Name a file with one or more certificates in PEM form.",
            ) from None
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
