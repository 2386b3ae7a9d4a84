"""What a client is told when its request is not answered: one exception, with the cause under which it is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Cause = Literal[
    "request", "unauthorized", "not-found", "too-large", "overload", "deadline", "cancelled", "model", "internal"
]
"""Label of the metric `trt_action_errors_total`."""

CAUSES: tuple[Cause, ...] = get_args(Cause)


MAX_NAME = 200
"""Characters of a foreign name that an answer repeats."""


def shown(name: object) -> str:
    """A foreign name for an answer: printable, shortened, in quotes."""
    return "'" + "".join(c for c in str(name)[:MAX_NAME] if c.isprintable()) + "'"


class RefusedError(Exception):
    """One request is refused; the message goes to the client, so it names no path and no host.

    Args:
        status: of HTTP; gRPC's code follows from it.
        message: one sentence.
        cause: what it is counted as.
        headers: of the answer, e.g. `Retry-After`.
    """

    def __init__(
        self, status: int, message: str, cause: Cause = "request", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.cause: Cause = cause
        self.headers = dict(headers or {})


def bad(message: str) -> RefusedError:
    """400: the request itself is wrong."""
    return RefusedError(400, message)


def not_found(message: str) -> RefusedError:
    """404: no such model, version or address."""
    return RefusedError(404, message, "not-found")


def too_large(message: str) -> RefusedError:
    """413: over a limit of size; the connection is closed because the rest of the body is not read."""
    return RefusedError(413, message, "too-large", {"connection": "close"})


def overloaded(message: str, retry_after: int = 1) -> RefusedError:
    """503: the queue is full; the client may come again after `retry_after` seconds."""
    return RefusedError(503, message, "overload", {"retry-after": str(retry_after)})


def expired() -> RefusedError:
    """504: what gRPC's DEADLINE_EXCEEDED is in HTTP (google/rpc/code.proto)."""
    return RefusedError(504, "The request's time was over before it was computed.", "deadline")
