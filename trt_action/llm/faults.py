"""What can be wrong with an answer: a kind to count it by, and words for a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trt_action.errors import EndpointError
from trt_action.inputs import quote

Kind = Literal[
    "refused-key", "not-found", "bad-request", "rate-limited", "server-error", "redirected", "no-connection",
    "timed-out", "cut", "malformed", "empty",
]  # fmt: skip

_FIX: dict[Kind, str] = {
    "refused-key": "Set TRT_ACTION_ENDPOINT_KEY (for base TRT_ACTION_BASE_ENDPOINT_KEY) to a key that may use this model.",
    "not-found": "Check the URL (most servers want `/v1` at its end), `endpoint-api` and `endpoint-model`.",
    "bad-request": "Check `endpoint-model`, `endpoint-api`, `max-output-tokens`, and that prompts fit the model's context.",
    "rate-limited": "Use fewer `concurrencies`, or an endpoint without a limit: one that holds requests back cannot be measured.",
    "server-error": "Look at the server's log; then run again.",
    "redirected": "Name the final URL: a key is not sent on to where a server points.",
    "no-connection": "Check that the server runs, its URL, and that this host may reach it.",
    "timed-out": "Raise `request-timeout` if the server is only slow; else look at its log: it hangs.",
    "cut": "Look at the server's log: it ended the answer before it was whole.",
    "malformed": "Check that the URL leads to an OpenAI-compatible server, and update it.",
    "empty": "Look at the server's log; check that the model has a chat template, or set `endpoint-api: completions`.",
}


@dataclass(frozen=True)
class Retry:
    """Whether the same request may succeed later; `after`: seconds that the server asked for."""

    after: float | None = None


class Fault(Exception):  # noqa: N818 - counted in a load, and an error of the run only where nothing else works
    """One request was not answered as it should be. The message holds no key.

    Args:
        said: one sentence for a person, with what the server said.
    """

    def __init__(self, kind: Kind, said: str, *, retry: Retry | None = None) -> None:
        super().__init__(said)
        self.kind = kind
        self.said = said
        self.retry = retry

    def error(self, label: str) -> EndpointError:
        """The error of a run that this fault ends."""
        return EndpointError(f"{label}: {self.said}", fix=_FIX[self.kind])


def scrubbed(text: str, secrets: tuple[str, ...]) -> str:
    """Foreign text for a message: short, printable, and without our keys, which a server may repeat."""
    return quote(hidden(text, secrets))


def hidden(text: str, secrets: tuple[str, ...]) -> str:
    """The text without our keys."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
