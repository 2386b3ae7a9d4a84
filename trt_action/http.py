"""One way to try an HTTP request again: how long to wait, when to give up, and what a lost answer was.

`requests` is imported where it is used: the ground floor starts without it.
"""

from __future__ import annotations

import email.utils
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests

MAX_BACKOFF = 30
LONGEST_NAMED = 10
"""Digits of a `Retry-After` that is believed."""


@dataclass(frozen=True)
class Lost:
    """No answer. `arrived`: the request may have taken effect; `final`: trying again cannot help; `refused`: nobody
    listens there; `unknown`: no host has that name (other failures of DNS may pass)."""

    reason: str
    arrived: bool = True
    final: bool = False
    refused: bool = False
    unknown: bool = False


@dataclass(frozen=True)
class Patience:
    """How long one call may take, and with which clock and chance.

    Args:
        seconds: that one call may take, waits included.
        attempts: the most tries of one call.
        sleep, clock, now, jitter: time and chance, passed in for tests. `now` is wall-clock seconds since 1970.
        log: told about each wait.
    """

    seconds: float = 300.0
    attempts: int = 7
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    log: Callable[[str], None] = field(default=lambda _: None)

    def tries(self) -> Tries:
        """The tries of one call, which begins now."""
        return Tries(self)

    def backoff(self, attempt: int) -> float:
        """Seconds after the try number `attempt` (from 1): 1, 2, 4 … 30, and up to half of it more."""
        return float(min(2 ** (attempt - 1), MAX_BACKOFF)) * (1 + self.jitter() / 2)

    def retry_after(self, headers: Mapping[str, str]) -> float | None:
        """Seconds that `Retry-After` asks for: a number or a date (RFC 9110, 10.2.3)."""
        after = headers.get("Retry-After", "").strip()
        if after.isascii() and after.isdigit() and len(after) < LONGEST_NAMED:
            return float(after)
        if after:
            try:
                return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - self.now())
            except (ValueError, OverflowError):
                pass
        return None


class Tries:
    """The tries of one call. `number` counts from 1; `deadline` is on the patience's clock."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.number = 1
        self.deadline = patience.clock() + patience.seconds

    def postpone(self) -> None:
        """What was tried takes long by itself: the time that it took does not count."""
        self.deadline = self._patience.clock() + self._patience.seconds

    def again(self, wait: float | None, said: str, request: str) -> bool:
        """Wait for the next try. False, at once, where there is none: `wait` is None, or it would take too long.

        `said` is what the other side answered (empty: the log is told nothing), `request` what was asked.
        """
        patience = self._patience
        if wait is None or self.number >= patience.attempts or patience.clock() + wait > self.deadline:
            return False
        if said:
            patience.log(f"{said}; again in {wait:.0f} s ({request})")
        patience.sleep(wait)
        self.number += 1
        return True


def lost(error: requests.RequestException) -> Lost:
    """What became of a request that got no answer. The exception itself holds the request and its headers, secrets
    included: it should go no further."""
    import requests
    from urllib3.exceptions import NewConnectionError

    if isinstance(error, requests.ConnectTimeout):
        return Lost("no connection in time", arrived=False)
    if isinstance(error, requests.Timeout):
        return Lost("no answer in time")
    if isinstance(error, requests.exceptions.SSLError):
        return Lost("the server's certificate is not accepted", arrived=False, final=True)
    cause = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(cause, NewConnectionError):
        origin = cause.__cause__
        unknown = isinstance(origin, socket.gaierror) and origin.errno == socket.EAI_NONAME
        refused = isinstance(origin, ConnectionRefusedError)
        return Lost("no such host" if unknown else "no connection", arrived=False, refused=refused, unknown=unknown)
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return Lost("the connection broke")
    return Lost(f"the request failed ({type(error).__name__})", final=True)


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: who gets what is sent to `url`. Without host where it is no address."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # a label that is empty or too long: urllib3 would trip over it
    except ValueError:
        return "", None, None
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port
