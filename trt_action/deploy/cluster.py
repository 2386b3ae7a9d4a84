"""Requests to one cluster's API: login, retries, limits, and refusals in words.

https://kubernetes.io/docs/reference/using-api/api-concepts/. A request without a `resourceVersion` to hold it against
may be sent twice; a patch carries one, so its repetition after a lost answer is a conflict, and whoever looks then finds
what has become of the first.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from trt_action import __version__, http
from trt_action.console import clean
from trt_action.deploy import tls
from trt_action.deploy.access import Access, Login
from trt_action.deploy.workload import Json, Patch
from trt_action.errors import DeployError, SettingsError
from trt_action.inputs import quote

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
MAX_BYTES = 32_000_000
FIELD_MANAGER = "trt-action"
WORDS = 500
"""Characters of the cluster's own words that a message repeats."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    def words(self) -> str:
        """The message of a `Status`. Foreign text."""
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(self.content)
            if isinstance(data, dict):
                return clean(str(data.get("message") or ""))[:WORDS]
        return ""


class _Bearer(AuthBase):
    """Given as `auth`, it also keeps requests from reading a `.netrc`."""

    def __init__(self, login: Login, impersonate: Mapping[str, str]) -> None:
        self._login, self._impersonate = login, impersonate

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("Cookie", None)
        request.headers.update(self._impersonate)
        if self._login.token is not None:
            request.headers["Authorization"] = f"Bearer {self._login.token.get_secret_value()}"
        return request


class Cluster:
    """One cluster as one user. Use as a context manager: it ends its connections.

    Args:
        patience: of one call, with clock and chance.

    Raises (every method):
        DeployError: refused, or not answered in time; `status` is the HTTP status (0: no answer).
    """

    def __init__(self, access: Access, patience: http.Patience | None = None) -> None:
        self.access = access
        self.patience = patience or http.Patience(seconds=60.0, attempts=6)
        self._session = requests.Session()
        self._login(access.login())

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def __repr__(self) -> str:
        return f"Cluster({self.access.server!r})"

    def get(self, path: str, **params: str) -> Json:
        """One object, or a list."""
        return self._parsed(self._call("GET", path, params), path)

    def patch(self, path: str, patch: Patch, *, dry_run: bool = False) -> Json:
        """Change an object; returns it as it is then. `dry_run`: the cluster checks and answers, and keeps nothing."""
        params = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        body = json.dumps(patch.body).encode()
        return self._parsed(self._call("PATCH", path, params, body, patch.content_type), path)

    def delete(self, path: str) -> None:
        """Remove an object. One that is gone already is no failure."""
        try:
            self._call("DELETE", path, {})
        except DeployError as error:
            if error.status != 404:
                raise

    def text(self, path: str, **params: str) -> str:
        """What is no JSON: a log."""
        return self._call("GET", path, params).content.decode("utf-8", "replace")

    def probe(self, path: str) -> int:
        """The status of an answer that may be a refusal; 0: no answer. One try."""
        got = self._once("GET", path, {}, None, "", self.patience.clock() + READ_SECONDS)
        return got.status if isinstance(got, _Answer) else 0

    def changed(self, collection: str, name: str, version: str, seconds: float) -> None:
        """Wait until the object is no longer as it was at `version`, or `seconds` are over. A watch is only the bell
        that rings: what it says is not read, and one that is cut, too old (410) or not allowed wakes us as well."""
        params = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        began = self.patience.clock()
        try:
            with self._session.get(
                self.access.server + collection,
                params=params,
                auth=self._auth,
                timeout=(CONNECT_SECONDS, seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code == 200 and next(response.iter_lines(65_536), None):
                    return
        except requests.RequestException:
            pass
        if self.patience.clock() - began < 1.0:  # it did not wait: neither cut nor refused is a reason to ask hotly
            self.patience.sleep(min(1.0, seconds))

    def _login(self, login: Login) -> None:
        self._auth = _Bearer(login, self.access.impersonate)
        self._secret = login.token.get_secret_value() if login.token else ""
        tls.prepare(self._session, self.access, login)

    def _renew(self) -> None:
        """Log in again. In the middle of a rollout this is a failure of the cluster's: who changed it must put it back."""
        try:
            self._login(self.access.login())
        except SettingsError as error:
            raise DeployError(
                f"The login to the cluster has ended, and there is no new one: {error.what}",
                why=error.why,
                fix=error.fix,
                status=401,
            ) from None

    def _call(
        self, method: str, path: str, params: Mapping[str, str], body: bytes | None = None, content_type: str = ""
    ) -> _Answer:
        tries = self.patience.tries()
        renewed = False
        while True:
            got = self._once(method, path, params, body, content_type, tries.deadline)
            if isinstance(got, _Answer) and got.status < 300:
                return got
            if isinstance(got, _Answer) and got.status == 401 and not renewed:
                renewed = True
                self._renew()
                continue
            wait = self._wait(got, tries.number)
            words = got.reason if isinstance(got, http.Lost) else f"HTTP {got.status}"
            if not tries.again(wait, f"cluster: {words}", f"{method} {path}"):
                raise self._refused(method, path, got)

    def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None,
        content_type: str,
        deadline: float,
    ) -> _Answer | http.Lost:
        headers = {"User-Agent": f"trt-action/{__version__}", "Accept": "application/json, */*"}
        if content_type:
            headers["Content-Type"] = content_type
        seconds = max(1.0, min(READ_SECONDS, deadline - self.patience.clock()))
        try:
            with self._session.request(
                method,
                self.access.server + path,
                params=params,
                data=body,
                headers=headers,
                auth=self._auth,
                timeout=(CONNECT_SECONDS, seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = bytearray()
                for piece in response.iter_content(65_536):
                    content += piece
                    if len(content) > MAX_BYTES or self.patience.clock() > deadline:
                        return http.Lost("the answer is too large or too slow", final=True)
                return _Answer(response.status_code, response.headers, bytes(content))
        except requests.RequestException as error:
            return http.lost(error)  # the exception holds the request and its headers: it goes no further

    def _wait(self, got: _Answer | http.Lost, attempt: int) -> float | None:
        backoff = self.patience.backoff(attempt)
        if isinstance(got, http.Lost):
            return None if got.final else backoff
        if got.status in (408, 429) or got.status >= 500:
            return max(self.patience.retry_after(got.headers) or 0.0, backoff)
        return None

    def _parsed(self, answer: _Answer, path: str) -> Json:
        try:
            data = json.loads(answer.content)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise DeployError(
                f"The cluster's answer for {quote(path)} is no JSON object.",
                why="Something that is no Kubernetes API answers at this address.",
                fix=f"Check the server: {quote(self.access.server)} ({self.access.origin}).",
            )
        return data

    def _refused(self, method: str, path: str, got: _Answer | http.Lost) -> DeployError:
        where = f"{urlsplit(self.access.server).netloc} ({self.access.origin})"
        if isinstance(got, http.Lost):
            return DeployError(
                f"The cluster {where} does not answer: {got.reason} ({method} {path}).",
                fix="Check the address, the network and the cluster's certificate; `kubectl cluster-info` tries the same.",
            )
        words = got.words().replace(self._secret, "***") if self._secret else got.words()
        what, fix = _MEANINGS.get(got.status, ("refused the request", ""))
        if got.status >= 500:
            what, fix = "has a problem of its own", "Try again once the cluster is well."
        return DeployError(
            f"The cluster {where} {what}: HTTP {got.status} for {method} {path}.",
            why=f"It says: {words}" if words else "",
            fix=fix,
            status=got.status,
        )


_MEANINGS = {
    401: (
        "does not know who asks",
        "Get a new token or certificate: this one is wrong, has ended or was revoked (`kubectl auth whoami`).",
    ),
    403: (
        "does not allow it",
        "Give the user the rights in docs/kubernetes/rbac.yaml; `kubectl auth can-i` tells which are there.",
    ),
    404: ("has no such object", "Check name, namespace, kind and context; `kubectl get` lists what is there."),
    409: ("says that the object has changed meanwhile", "Run it again."),
    410: ("no longer knows this version", "Run it again."),
    415: ("does not take this kind of patch", "Check that the workload's kind is right."),
    422: ("finds the change invalid", "Correct what it names; nothing was changed."),
    429: ("has too much to do", "Try again later."),
}


@contextlib.contextmanager
def opened(
    access: Access, log: Callable[[str], None] = lambda _: None, patience: http.Patience | None = None
) -> Iterator[Cluster]:
    """A client that ends its connections.

    Raises:
        SettingsError: the login or the certificates cannot be used.
    """
    if access.insecure:
        log("The cluster's certificate is not checked (insecure-skip-tls-verify): anybody on the way could be it.")
    with Cluster(access, patience or http.Patience(seconds=60.0, attempts=6, log=log)) as cluster:
        yield cluster
