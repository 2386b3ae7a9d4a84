"""Numbers from a Prometheus server: one query, one number, or none.

https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import requests
from pydantic import SecretStr

from trt_action import __version__, http
from trt_action.console import clean
from trt_action.errors import DeployError, SettingsError
from trt_action.inputs import quote
from trt_action.publish.reference import is_loopback

SECONDS = 15.0
MAX_BYTES = 4_000_000

P99 = "histogram_quantile(0.99, sum by (le) (rate(trt_action_request_duration_seconds_bucket{SELECTOR}[WINDOW])))"
"""Seconds; of our server (docs/serving.md)."""

ERROR_RATE = (
    "(sum(rate(nv_inference_request_failure{SELECTOR}[WINDOW])) or vector(0)) / "
    "(sum(rate(nv_inference_request_success{SELECTOR}[WINDOW])) + "
    "(sum(rate(nv_inference_request_failure{SELECTOR}[WINDOW])) or vector(0)))"
)
"""Failed requests by all requests; of our server and of Triton. Without requests it is 0/0: no number."""

SELECTOR = 'namespace="NAMESPACE",pod=~"PODS"'
"""Which series: Prometheus' own labels of a pod, as its operator and its usual configurations set them."""


class Prometheus:
    """One server.

    Args:
        token: sent as a bearer token, over TLS or to this machine only.
    """

    def __init__(self, session: requests.Session, url: str, token: SecretStr | None = None) -> None:
        parts = http.origin(url)
        if parts[0] not in ("http", "https") or not parts[1]:
            raise SettingsError(
                f"`prometheus-url` is {quote(url)}, which is no http(s) address.",
                fix="Write it as `https://prometheus.example.com`.",
            )
        if token is not None and parts[0] == "http" and not is_loopback(parts[1]):
            raise SettingsError(
                "The token of Prometheus would be sent without TLS.", fix="Use https, or leave the token out."
            )
        self._session, self._url, self._token = session, url.rstrip("/"), token

    def value(self, query: str) -> float | None:
        """The number that a query gives now; None: it gives none (no series, or NaN).

        Raises:
            DeployError: the server refuses, does not answer, or the query gives several.
        """
        data = self._ask(query)
        result = data.get("result")
        if data.get("resultType") == "scalar":
            result = [{"value": result}]
        if not isinstance(result, list) or len(result) > 1:
            raise DeployError(
                f"The query {quote(query)} gives more than one number.", fix="Aggregate it, for example with `sum(…)`."
            )
        if not result:
            return None
        try:
            number = float(result[0]["value"][1])
        except (KeyError, IndexError, TypeError, ValueError):
            raise DeployError(f"Prometheus gave no number for {quote(query)}.") from None
        return None if math.isnan(number) else number

    def _ask(self, query: str) -> dict[str, object]:
        headers = {"User-Agent": f"trt-action/{__version__}", "Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        try:
            with self._session.post(
                f"{self._url}/api/v1/query",
                data={"query": query},
                headers=headers,
                auth=lambda request: request,  # keeps requests from reading a .netrc
                timeout=SECONDS,
                allow_redirects=False,
                stream=True,
            ) as response:
                status, content = response.status_code, bytearray()
                for piece in response.iter_content(65_536):
                    content += piece
                    if len(content) > MAX_BYTES:
                        raise DeployError("Prometheus' answer is too large.", fix=_FIX)
        except requests.RequestException as error:
            raise DeployError(f"Prometheus does not answer: {http.lost(error).reason}.", fix=_FIX) from None
        answer = _json(bytes(content))
        if status != 200 or answer.get("status") != "success":
            said = clean(str(answer.get("error") or ""))[:300]
            raise DeployError(f"Prometheus refused the query: HTTP {status}.", why=said, fix=_FIX, status=status)
        data = answer.get("data")
        return data if isinstance(data, dict) else {}


_FIX = "Check `prometheus-url`, its token, and the query in Prometheus' own page."


def filled(query: str, selector: str, *, namespace: str, names: Sequence[str], seconds: float) -> str:
    """A template with its words filled in: SELECTOR, NAMESPACE, PODS (a pattern of names) and WINDOW."""
    pods = "|".join(re.escape(name).replace("\\", "\\\\") for name in names)
    words = {"NAMESPACE": namespace, "PODS": pods, "WINDOW": f"{max(1, round(seconds))}s"}
    text = query.replace("SELECTOR", selector)
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _json(content: bytes) -> dict[str, object]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
