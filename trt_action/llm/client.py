"""One connection to an OpenAI-compatible server: a request, its streamed answer, and when each piece of it arrived.

Times are of this client: from the moment before the request is sent to the moment when the bytes of a piece are read.
Nothing is tried again here, for a second try has no honest time; who asks decides (`Fault.retry`).
"""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import requests
import urllib3
from pydantic import SecretStr

from trt_action import http
from trt_action.llm import api, sse
from trt_action.llm.api import Api, Piece, WrongAnswerError
from trt_action.llm.faults import Fault, Kind, Retry, hidden, scrubbed
from trt_action.llm.prompts import Prompt

CONNECT_SECONDS = 10.0
MAX_ERROR_BYTES = 20_000
MAX_MODELS_BYTES = 4_000_000
MAX_TEXT = 1_000_000
"""Characters of an answer that are kept; more are counted only."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. Times in ns from sending: to the first text, to the last, and between texts."""

    ttft_ns: int
    e2e_ns: int
    gaps_ns: tuple[int, ...]
    text: str
    output_tokens: int
    prompt_tokens: int | None
    """None: the server told no counts, and `output_tokens` counts pieces."""
    finish: str
    logprobs: Mapping[str, float]


@dataclass(frozen=True)
class Access:
    """Where a server is and how it is asked. `dropped`: optional fields that it does not know."""

    url: str
    api: Api = "chat"
    model: str = ""
    key: SecretStr | None = None
    timeout: float = 120.0
    dropped: frozenset[str] = frozenset()

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.key.get_secret_value(),) if self.key and self.key.get_secret_value() else ()


class Client:
    """A connection that is kept open between requests. Use as a context manager; not for several threads."""

    def __init__(self, access: Access, *, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.access = access
        self._clock = clock
        self._session = _session(access)
        self.server = ""
        """What the server called itself in its last answer."""
        self._used = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def reconnect(self) -> None:
        """Leave the connection; the next request makes a new one."""
        self._session.close()
        self._session = _session(self.access)
        self._used = False

    def use(self, access: Access) -> None:
        """Ask differently from now on."""
        self.access = access

    def models(self) -> list[str]:
        """Names that the server lists; empty where it has no list.

        Raises:
            Fault: it does not answer, refuses the key, or answers with something else.
        """
        prepared = self._prepared("GET", f"{self.access.url}/models", None)
        with self._send(prepared, time_left=min(self.access.timeout, 30.0)) as response:
            if response.status_code in {404, 405, 501}:
                return []
            self._check_status(response)
            try:
                content = api.load(_head(response, MAX_MODELS_BYTES))
                return [str(one["id"]) for one in content["data"]]
            except (WrongAnswerError, KeyError, TypeError) as error:
                where = scrubbed(f"{self.access.url}/models", self.access.secrets)
                raise Fault("malformed", f"{where} gives no list of models: {error}.") from None

    def ask(
        self, prompt: Prompt, *, max_tokens: int, seed: int, ignore_eos: bool = False, logprobs: bool = False
    ) -> Answer:
        """One request and its whole answer.

        Raises:
            Fault: there is none.
        """
        body = api.request(
            self.access.api,
            self.access.model,
            prompt,
            max_tokens=max_tokens,
            seed=seed,
            ignore_eos=ignore_eos,
            logprobs=logprobs,
        )
        for name in self.access.dropped:
            body.pop(name, None)
        url = self.access.url + api.PATHS[self.access.api]
        prepared = self._prepared("POST", url, body)
        reused, start = self._used, self._clock()
        try:
            response = self._send(prepared, time_left=self.access.timeout)
        except Fault as fault:
            if fault.kind != "cut" or not reused:
                raise
            # A server may close a connection that it kept open just when a request comes (RFC 9112, 9.3.1): once more, on a
            # new one, and the time starts again.
            self.reconnect()
            start = self._clock()
            response = self._send(prepared, time_left=self.access.timeout)
        with response:
            self._check_status(response)
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind != "text/event-stream":
                said = scrubbed(_head(response, 300).decode("utf-8", "replace"), self.access.secrets)
                raise Fault("malformed", f"The server does not stream: it answers with {kind or 'no type'}, {said}.")
            return self._collect(response, start)

    def _prepared(self, method: str, url: str, body: dict[str, Any] | None) -> requests.PreparedRequest:
        try:
            return self._session.prepare_request(requests.Request(method, url, json=body))
        except requests.RequestException as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> Fault:
        """Nothing could be sent: no server has such a name, or a file of certificates that the environment names is missing."""
        secrets = self.access.secrets
        return Fault(
            "no-connection", f"{scrubbed(self.access.url, secrets)} cannot be asked: {scrubbed(str(error), secrets)}."
        )

    def _send(self, prepared: requests.PreparedRequest, *, time_left: float) -> requests.Response:
        settings = self._session.merge_environment_settings(prepared.url or "", {}, True, None, None)
        try:
            response = self._session.send(
                prepared, timeout=(min(CONNECT_SECONDS, time_left), time_left), allow_redirects=False, **settings
            )
        except requests.RequestException as error:
            lost = http.lost(error)
            kind: Kind = "no-connection" if not lost.arrived else "cut"
            if isinstance(error, requests.ReadTimeout):
                kind = "timed-out"
            said = f"{scrubbed(self.access.url, self.access.secrets)} gave no answer: {lost.reason}"
            text = f"{said} within {time_left:g} s." if kind == "timed-out" else f"{said}."
            raise Fault(kind, text, retry=None if lost.final else Retry()) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unusable(error) from None
        self.server, self._used = hidden(response.headers.get("Server", ""), self.access.secrets), True
        return response

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        said = _said(_head(response, MAX_ERROR_BYTES), self.access.secrets)
        what = f"{scrubbed(self.access.url, self.access.secrets)} answered {status}" + (f": {said}." if said else ".")
        retry = Retry(http.Patience().retry_after(response.headers))
        if status in {401, 403}:
            raise Fault("refused-key", what)
        if status == 404:
            raise Fault("not-found", what)
        if status == 429:
            raise Fault("rate-limited", what, retry=retry)
        if status >= 500:
            raise Fault("server-error", what, retry=retry)
        raise Fault("redirected" if 300 <= status < 400 else "bad-request", what)

    def _collect(self, response: requests.Response, start: int) -> Answer:
        """Read the stream to its end. The moment is taken before anything is parsed."""
        parser, answer = sse.Parser(), _Collected(start)
        deadline = start + int(self.access.timeout * 1e9)
        try:
            _acknowledge(response)
            while received := response.raw.read1(65_536, decode_content=False):
                now = self._clock()
                _acknowledge(response)
                if now > deadline:
                    raise Fault("timed-out", f"An answer was not whole after {self.access.timeout:g} s.")
                for data in parser.feed(received):
                    self._take(answer, data, now)
        except urllib3.exceptions.ReadTimeoutError:
            raise Fault(
                "timed-out", f"The server fell silent in the middle of an answer for {self.access.timeout:g} s."
            ) from None
        except (urllib3.exceptions.HTTPError, OSError):
            raise Fault("cut", "The connection broke in the middle of an answer.", retry=Retry()) from None
        except (sse.MalformedError, WrongAnswerError) as error:
            raise Fault("malformed", f"The server's stream is malformed: {error}.") from None
        return answer.finished(unfinished=parser.unfinished)

    def _take(self, answer: _Collected, data: str, now: int) -> None:
        if data == api.DONE:
            answer.done = True
            return
        if answer.done:
            raise WrongAnswerError("there is more after [DONE]")
        piece = api.parse(self.access.api, data)
        if piece.error:
            said = scrubbed(piece.error, self.access.secrets)
            raise Fault(
                "server-error", f"The server reported an error in the middle of an answer: {said}.", retry=Retry()
            )
        answer.take(piece, now)


class _Collected:
    """An answer while it arrives."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.moments: list[int] = []
        self.texts: list[str] = []
        self.characters = 0
        self.finish: str | None = None
        self.finished_at = start
        self.usage: tuple[int, int] | None = None
        self.logprobs: Mapping[str, float] = {}
        self.choices = 0
        self.done = False

    def take(self, piece: Piece, now: int) -> None:
        self.choices += piece.choices
        self.usage = piece.usage or self.usage
        if piece.is_token:
            self.moments.append(now)
            if self.characters < MAX_TEXT:
                self.texts.append(piece.text)
                self.characters += len(piece.text)
        if piece.logprobs and not self.logprobs:
            self.logprobs = piece.logprobs
        if piece.finish is not None:
            self.finish, self.finished_at = piece.finish, now

    def finished(self, *, unfinished: bool) -> Answer:
        if unfinished or (not self.done and self.finish is None):
            raise Fault("cut", "The server ended an answer before it was whole.", retry=Retry())
        if not self.choices:
            raise Fault("empty", "The server's answer holds no choices.")
        if not self.moments and not (self.usage and self.usage[1]):
            raise Fault("empty", "The server's answer holds no text.")
        moments = self.moments or [self.finished_at]
        return Answer(
            ttft_ns=moments[0] - self.start,
            e2e_ns=moments[-1] - self.start,
            gaps_ns=tuple(after - before for before, after in itertools.pairwise(moments)),
            text="".join(self.texts)[:MAX_TEXT],
            output_tokens=self.usage[1] if self.usage else len(moments),
            prompt_tokens=self.usage[0] if self.usage else None,
            finish=self.finish or "",
            logprobs=self.logprobs,
        )


def _session(access: Access) -> requests.Session:
    """Proxies and certificates from the environment, the key from us and from nowhere else (no .netrc)."""
    session = requests.Session()
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "trt-action"})
    key = access.key

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        return request

    session.auth = authorize
    return session


def _acknowledge(response: requests.Response) -> None:
    """Tell the server at once that its bytes are here (Linux). A server without TCP_NODELAY holds the next piece back until
    then, and Linux takes up to 40 ms to tell it: the difference between two models would drown in that."""
    connected = getattr(response.raw.connection, "sock", None)
    if connected is not None and hasattr(socket, "TCP_QUICKACK"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _head(response: requests.Response, most: int) -> bytes:
    """The first bytes of a body; what has arrived, where the rest does not."""
    found = b""
    try:
        while len(found) < most and (more := response.raw.read1(most - len(found), decode_content=False)):
            found += more
    except (urllib3.exceptions.HTTPError, OSError):
        pass
    return found


def _said(body: bytes, secrets: tuple[str, ...]) -> str:
    """The message of an error body, in any of the forms that servers use; empty if there is none."""
    text = body.decode("utf-8", "replace").strip()
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        content = text
    return scrubbed(api.message(content), secrets) if text else ""


def settled(client: Client, prompt: Prompt, *, seed: int, ignore_eos: bool) -> tuple[Access, list[str]]:
    """Ask once for one token, without the optional fields that the server names as unknown. Returns how it is asked from
    now on, and notes.

    Raises:
        Fault: it does not answer.
    """
    notes = []
    while True:
        try:
            client.ask(prompt, max_tokens=1, seed=seed, ignore_eos=ignore_eos)
        except Fault as fault:
            sent = [name for name in api.DROPPABLE if name not in client.access.dropped]
            named = next((name for name in sent if fault.kind == "bad-request" and name in fault.said), None)
            if named is None:
                raise
            client.use(replace(client.access, dropped=client.access.dropped | {named}))
            notes.append(f"The server does not know `{named}`; it is left out.")
        else:
            return client.access, notes
