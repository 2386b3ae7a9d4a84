"""MLflow's REST API: its login, its errors, and when it may be asked again. https://mlflow.org/docs/latest/rest-api.html"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote as quoted
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr

from trt_action import http, rest
from trt_action.errors import TrackingError
from trt_action.inputs import quote
from trt_action.recording.asked import Login
from trt_action.rest import Answer

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
PATIENCE_SECONDS = 60.0
"""Of one call, tries and waits included: a run is not held up for long by what only looks at it."""
TOTAL_SECONDS = 240.0
"""Of everything that is recorded of one run."""

Body = Mapping[str, Any]


class Mlflow:
    """Talks to one tracking server as one login. Every method may be called again after a lost answer.

    Args:
        uri: with its path, without a slash at its end.
        how: clock and chance for `rest.Client`, passed in for tests.

    Raises (every method):
        TrackingError: refused, or not answered in time; `status` is the HTTP status (0: no answer).
    """

    def __init__(self, session: requests.Session, uri: str, login: Login, **how: Any) -> None:
        self.uri = uri
        self._login = login
        self._clock: Callable[[], float] = how.get("clock", time.monotonic)
        self._end = self._clock() + TOTAL_SECONDS
        scheme, value = _credentials(login)
        dialect = replace(DIALECT, token=lambda secret: ("Authorization", f"{scheme} {secret}"))
        secret = SecretStr(value) if login.secret else None
        self._client = rest.Client(
            dialect, session, uri, secret, **{"patience": PATIENCE_SECONDS, "attempts": 4, **how}
        )

    def __repr__(self) -> str:
        return f"Mlflow({self.uri!r})"

    def get(self, path: str, **params: str) -> dict[str, Any]:
        """One object."""
        return self._object(lambda: self._client.get(API + path, **params), path)

    def find(self, path: str, **params: str) -> dict[str, Any] | None:
        """One object; None: there is none."""
        try:
            return self.get(path, **params)
        except TrackingError as error:
            if error.status == 404:
                return None
            raise

    def post(self, path: str, body: Body, *, sent: Callable[[], Any | None] = lambda: None) -> dict[str, Any]:
        """Do something. `sent` looks whether a lost request took effect; without it, doing it twice is as once."""
        return self._object(lambda: self._client.post(API + path, body, sent=sent), path)

    def upload(self, artifact_uri: str, name: str, content: bytes) -> bool:
        """Store a file of a run. False: the server does not take files in place of its store."""
        parts = urlsplit(artifact_uri)
        if parts.scheme != "mlflow-artifacts" or parts.hostname not in (None, urlsplit(self.uri).hostname):
            return False
        path = quoted(f"{parts.path.rstrip('/')}/{name}")
        self._timed(lambda: self._client.put_bytes(ARTIFACTS + path, content))
        return True

    def _object(self, call: Callable[[], Any], path: str) -> dict[str, Any]:
        found = self._timed(call)
        if isinstance(found, dict):
            return found
        raise TrackingError(
            f"{quote(self.uri)} does not answer {API}{path} as an MLflow server does.",
            fix="Check `mlflow-tracking-uri`: the address that MLFLOW_TRACKING_URI would have.",
        )

    def _timed(self, call: Callable[[], Any]) -> Any:
        if self._clock() > self._end:
            raise TrackingError(f"MLflow was not done after {TOTAL_SECONDS:.0f} s.", fix="Look at the server's load.")
        try:
            return call()
        except TrackingError as error:
            raise self._told(error) from None

    def _told(self, error: TrackingError) -> TrackingError:
        """With the server's address, and without the password, should an answer repeat it."""
        secret = self._login.secret.get_secret_value() if self._login.secret else ""
        what = error.what.replace(secret, "***") if secret else error.what
        return TrackingError(f"{quote(self.uri)}: {what}", why=error.why, fix=error.fix, status=error.status)


def _credentials(login: Login) -> tuple[str, str]:
    """Scheme and value of the header."""
    secret = login.secret.get_secret_value() if login.secret else ""
    if login.username:
        return "Basic", base64.b64encode(f"{login.username}:{secret}".encode()).decode()
    return "Bearer", secret


def _message(data: Any) -> str:
    """MLflow's word for it and what it says about it. Foreign text."""
    if not isinstance(data, dict):
        return ""
    return ": ".join(str(data[name]) for name in ("error_code", "message") if data.get(name))


def _wait(got: Answer, patience: http.Patience, attempt: int) -> float | None:
    """Seconds until the next try; None where trying again cannot help."""
    named = patience.retry_after(got.headers)
    if got.status == 429 or got.status >= 500 or got.status == 408:
        backoff = patience.backoff(attempt)
        return backoff if named is None else max(named, backoff)
    return None


_LOGIN = "Give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment."

DIALECT = rest.Dialect(
    name="MLflow",
    variable="mlflow-tracking-uri",
    headers={"Accept": "application/json"},
    token=lambda secret: ("Authorization", f"Bearer {secret}"),
    error=TrackingError,
    message=_message,
    wait=_wait,
    fixes={
        0: "Check `mlflow-tracking-uri`, and whether this host reaches the server.",
        401: _LOGIN,
        403: "The login may not write here: it needs EDIT on the experiment and on the registered model. " + _LOGIN,
        404: "Check `mlflow-tracking-uri`: the address that MLFLOW_TRACKING_URI would have.",
    },
)
