"""How a registry's 401 is answered: Basic, or a token from the server that the registry names.

https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from trt_action.errors import RegistryError
from trt_action.inputs import quote
from trt_action.publish.credentials import Credentials
from trt_action.publish.reference import is_loopback

CLIENT_ID = "trt-action"
SHORTEST_LIFE = 60.0
"""Seconds a token is good for where its server does not say (the specification's minimum)."""

RENEW_BEFORE = 5.0
MAX_CHALLENGE = 8_192
_PART = re.compile(
    r"[\s,]*(?:(?P<key>[A-Za-z0-9_-]+)\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s,\"]+))"
    r"|(?P<scheme>[A-Za-z0-9_-]+)(?=[\s,]|$))"
)
_TOKEN = re.compile(r"[!-~]{1,65536}")


class AskToken(Protocol):
    """Sends one request to a token server, retried, and gives its JSON; nothing but `headers` authorizes it."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], params: Mapping[str, Any], form: Mapping[str, str]
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Challenge:
    """One way to authenticate that a 401 offers; `scheme` in lower case."""

    scheme: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class _Token:
    header: str
    until: float


class Authenticator:
    """Remembers how one registry wants to be spoken to.

    Args:
        insecure: a token server may be asked over http even where it is not this machine.
    """

    def __init__(
        self, credentials: Credentials | None, ask: AskToken, clock: Callable[[], float], *, insecure: bool
    ) -> None:
        self._credentials, self._ask, self._clock, self._insecure = credentials, ask, clock, insecure
        self._basic = False
        self._bearer: Challenge | None = None
        self._tokens: dict[frozenset[str], _Token] = {}

    @property
    def challenged(self) -> bool:
        """Whether the registry has asked for a login or a token."""
        return self._basic or self._bearer is not None

    def header(self, scopes: Iterable[str]) -> str | None:
        """The `Authorization` for a request that needs `scopes`, if this registry has asked for one before."""
        if self._basic and self._credentials:
            return self._credentials.basic()
        if self._bearer is None:
            return None
        return self._known(frozenset(scopes)) or self._token(self._bearer, frozenset(scopes))

    def renew(self, challenges: str, scopes: Iterable[str]) -> str | None:
        """The `Authorization` that answers a 401, or None where there is nothing to answer with.

        Raises:
            RegistryError: the token server refuses, or is one that must not see the login.
        """
        offered = parse(challenges)
        for challenge in offered:
            if challenge.scheme == "bearer":
                self._bearer = challenge
                wanted = frozenset(scopes)
                self._tokens = {scope: token for scope, token in self._tokens.items() if not wanted <= scope}
                return self._token(challenge, wanted)
        if any(one.scheme == "basic" for one in offered) and self._credentials and not self._credentials.identity:
            self._basic = True
            return self._credentials.basic()
        return None

    def _known(self, scopes: frozenset[str]) -> str | None:
        for granted, token in self._tokens.items():
            if scopes <= granted and self._clock() < token.until:
                return token.header
        return None

    def _token(self, challenge: Challenge, scopes: frozenset[str]) -> str:
        realm = challenge.params.get("realm", "")
        self._check_realm(realm)
        asked = sorted(scopes) or challenge.params.get("scope", "").split()
        service = challenge.params.get("service", "")
        login = self._credentials
        if login and login.identity:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(asked),
                "refresh_token": login.secret.get_secret_value(),
            }
            answer = self._ask("POST", realm, {}, {}, form)
        else:
            params = {"service": service, "scope": asked, "client_id": CLIENT_ID}
            headers = {"Authorization": login.basic()} if login else {}
            answer = self._ask("GET", realm, headers, params, {})
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RegistryError(f"The token server {quote(urlsplit(realm).netloc)} answered without a token.")
        header = f"Bearer {token}"
        self._tokens[scopes] = _Token(header, self._clock() + _life(answer) - RENEW_BEFORE)
        return header

    def _check_realm(self, realm: str) -> None:
        parts = urlsplit(realm)
        local = is_loopback(parts.netloc) or self._insecure
        if (
            parts.hostname
            and "@" not in parts.netloc
            and (parts.scheme == "https" or (parts.scheme == "http" and local))
        ):
            return
        raise RegistryError(
            f"The registry sends us for a token to {quote(realm)}, which is not asked.",
            why="The login would go over the network in clear text, or nowhere.",
            fix="Give the token server TLS; for a registry that has none on purpose, allow plain http.",
        )


def parse(header: str) -> list[Challenge]:
    """The challenges of a `WWW-Authenticate` header (RFC 9110, 11.6.1); what cannot be read is left out."""
    found: list[Challenge] = []
    params: dict[str, str] = {}
    for part in _PART.finditer(header[:MAX_CHALLENGE]):
        if part["scheme"]:
            params = {}
            found.append(Challenge(part["scheme"].lower(), params))
        else:
            value = part["plain"] if part["quoted"] is None else re.sub(r"\\(.)", r"\1", part["quoted"])
            params.setdefault(part["key"].lower(), value)
    return found


def _life(answer: Mapping[str, Any]) -> float:
    seconds = answer.get("expires_in")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        return SHORTEST_LIFE
    return float(seconds)
