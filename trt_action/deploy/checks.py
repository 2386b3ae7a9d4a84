"""What must hold once the image is rolled out: the server says that it is ready, and real requests stay fast and right.

No data is a failure: a rule that nobody could check has not held.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import requests
from urllib3.exceptions import LocationParseError

from trt_action import __version__, http
from trt_action.deploy import progress, prometheus
from trt_action.deploy.pods import Pod
from trt_action.deploy.prometheus import Prometheus
from trt_action.deploy.rollout import Failure, Rollout
from trt_action.deploy.workload import Json
from trt_action.errors import DeployError, SettingsError
from trt_action.inputs import quote

READY = "/v2/health/ready"
PORT = 8_000
HEALTH_SECONDS = 60.0
LOOKS = 3
"""A rule that is broken in so many looks in a row is broken; one look may be a slow start."""

MIN_WINDOW = 60.0
"""Seconds that a rate is taken over at least: Prometheus needs two samples in them."""

_SERVICE = re.compile(r"service/([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?):([0-9]{1,5}|[a-z][-a-z0-9]{0,14})")
_PODS = re.compile(r"pods(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class Health:
    """Whom to ask whether the server is ready: every pod or a service through the cluster's API, or an address."""

    service: str = ""
    port: str = ""
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> Health:
        """`pods`, `pods:8000`, `service/NAME:PORT`, or an http(s) address.

        Raises:
            SettingsError: it is none of them.
        """
        if found := _PODS.fullmatch(text):
            return cls(port=found[1] or str(PORT))
        if found := _SERVICE.fullmatch(text):
            return cls(service=found[1], port=found[3])
        scheme, host, port = http.origin(text)
        if scheme in ("https", "http") and host and port:
            return cls(url=text)
        raise SettingsError(
            f"`health` is {quote(text)}, which nobody can be asked at.",
            fix="Write `pods`, `pods:8000`, `service/NAME:PORT` or `https://…`.",
        )


@dataclass(frozen=True)
class Rules:
    """What Prometheus is asked, and for how long.

    Args:
        seconds: how long to watch. `interval`: between two looks.
        max_p99: seconds. `max_error_rate`: of all requests, in [0, 1].
        p99, error_rate, selector: PromQL, with SELECTOR, NAMESPACE, PODS and WINDOW to be filled in.
    """

    seconds: float = 300.0
    max_p99: float | None = None
    max_error_rate: float | None = None
    p99: str = prometheus.P99
    error_rate: str = prometheus.ERROR_RATE
    selector: str = prometheus.SELECTOR
    interval: float = 15.0

    def limits(self) -> Mapping[str, tuple[str, float]]:
        """Query and limit of each rule that is set, by the name that people see."""
        found = {}
        if self.max_p99 is not None:
            found["p99"] = (self.p99, self.max_p99)
        if self.max_error_rate is not None:
            found["error rate"] = (self.error_rate, self.max_error_rate)
        return found


@dataclass(frozen=True)
class Checks:
    """All that was asked for; usable as `deploying.Checks`."""

    health: Health | None = None
    rules: Rules | None = None
    prometheus: Prometheus | None = None
    session: requests.Session | None = None
    health_seconds: float = HEALTH_SECONDS

    def __call__(self, rollout: Rollout) -> Failure | None:
        """Why what is rolled out may not stay; None: everything holds.

        Raises:
            DeployError: the cluster does not answer.
        """
        failure = self._ready(rollout, self.health) if self.health else None
        if failure is None and self.rules is not None and self.prometheus is not None:
            failure = _Watch(rollout, self.rules, self.prometheus).run()
        return failure

    def _ready(self, rollout: Rollout, health: Health) -> Failure | None:
        patience = rollout.cluster.patience
        end = patience.clock() + self.health_seconds
        while True:
            found, listed = rollout.look()
            if foreign := rollout.taken(found):
                return foreign
            silent = self._silent(rollout, health, [pod for pod in listed if pod.has(rollout.image) and not pod.ending])
            rollout.show(silent or "the server is ready", None)
            if not silent:
                rollout.log("The server says that it is ready.")
                return None
            if patience.clock() >= end:
                return rollout.failed(f"{silent} within {self.health_seconds:g} s", listed)
            patience.sleep(1.0)

    def _silent(self, rollout: Rollout, health: Health, fresh: list[Pod]) -> str:
        """Who does not say that it is ready; empty: all do."""
        base = f"/api/v1/namespaces/{rollout.target.namespace}"
        if health.url:
            status = self._status(health.url)
            return "" if status == 200 else f"{quote(health.url)} did not say that it is ready ({_words(status)})"
        if health.service:
            path = f"{base}/services/{health.service}:{health.port}/proxy{READY}"
            status = rollout.cluster.probe(path)
            return "" if status == 200 else f"the service {quote(health.service)} did not say ready ({_words(status)})"
        if not fresh:
            return "there was no pod to be asked"
        for pod in fresh:
            status = rollout.cluster.probe(f"{base}/pods/{pod.name}:{health.port}/proxy{READY}")
            if status != 200:
                return f"the pod {quote(pod.name)} did not say that it is ready ({_words(status)})"
        return ""

    def _status(self, url: str) -> int:
        """The status of an address of the user's; 0: no answer. Nothing secret is sent."""
        session = self.session or requests.Session()
        try:
            with session.get(
                url,
                headers={"User-Agent": f"trt-action/{__version__}"},
                auth=lambda request: request,
                timeout=10.0,
                stream=True,
            ) as response:
                return response.status_code
        except (requests.RequestException, LocationParseError):  # the latter where a redirect names no host
            return 0


class _Watch:
    """Looks at Prometheus and at the pods, again and again."""

    def __init__(self, rollout: Rollout, rules: Rules, server: Prometheus) -> None:
        self._rollout, self._rules, self._server = rollout, rules, server
        self._broken: dict[str, int] = {}

    def run(self) -> Failure | None:
        patience = self._rollout.cluster.patience
        began = patience.clock()
        while True:
            left = self._rules.seconds - (patience.clock() - began)
            patience.sleep(max(0.0, min(self._rules.interval, left)))
            elapsed = patience.clock() - began
            found, listed = self._rollout.look()
            if foreign := self._rollout.taken(found):
                return foreign
            last = elapsed >= self._rules.seconds - 0.01
            down = self._down(found, listed)
            if self._count("pods", broken=down) >= LOOKS or (last and down):
                return self._rollout.failed("it did not stay up", listed)
            said = self._look([pod for pod in listed if pod.has(self._rollout.image)], elapsed, last=last)
            if isinstance(said, DeployError):
                return Failure(said)
            self._rollout.show(f"{said}, {elapsed:.0f} s of {self._rules.seconds:.0f} s", elapsed / self._rules.seconds)
            if last:
                self._rollout.log(f"It holds after {elapsed:.0f} s: {said}.")
                return None

    def _down(self, found: Json, listed: list[Pod]) -> bool:
        """A pod in trouble, or none ready. More pods than before that still start are no harm: somebody scales."""
        state = progress.state(self._rollout.target, found, listed, self._rollout.image)
        fresh = [pod for pod in listed if pod.has(self._rollout.image) and not pod.ending]
        return bool(state.failed) or any(pod.trouble for pod in fresh) or not any(pod.ready for pod in fresh)

    def _look(self, fresh: list[Pod], elapsed: float, *, last: bool) -> DeployError | str:
        said = []
        for name, (query, limit) in self._rules.limits().items():
            text = prometheus.filled(
                query,
                self._rules.selector,
                namespace=self._rollout.target.namespace,
                names=[pod.name for pod in fresh],
                seconds=max(MIN_WINDOW, elapsed),
            )
            try:
                value, why = self._server.value(text), ""
            except DeployError as error:
                value, why = None, f"{error.what} {error.why}".strip()
            if value is None and last:
                return DeployError(
                    f"There is no {name} to judge {quote(self._rollout.image)} by.",
                    why=why or f"Prometheus has no data for {text}",
                    fix="Check that Prometheus scrapes the pods, that requests arrive, and the query's labels "
                    "(`prometheus-selector`).",
                )
            broken = value is not None and value > limit
            if broken and (self._count(name, broken=True) >= LOOKS or last):
                return DeployError(
                    f"{quote(self._rollout.image)} does not hold: {name} {_number(name, value)}, and at most "
                    f"{_number(name, limit)} is allowed.",
                    fix="Compare with the run that measured it: load, GPU, neighbours, clients; then deploy again.",
                )
            if not broken:
                self._count(name, broken=False)
            said.append(f"{name} {_number(name, value)} (at most {_number(name, limit)})")
        return ", ".join(said)

    def _count(self, name: str, *, broken: bool) -> int:
        self._broken[name] = self._broken.get(name, 0) + 1 if broken else 0
        return self._broken[name]


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value * 1e3:.4g} ms" if name == "p99" else f"{value:.3%}"


def _words(status: int) -> str:
    return f"HTTP {status}" if status else "no answer"
